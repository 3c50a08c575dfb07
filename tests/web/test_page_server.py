"""The annotation server: prompts, commits, everything, exports, and what it refuses."""

import io
import json
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import decode_rle
from segjax.models.build import build_model, init_model
from segjax.web.app import make_app
from segjax.web.project import Project
from segjax.web.runs import decode_runs, encode_runs
from segjax.web.segmenter import PageModel

RNG = np.random.default_rng(0)
SOCKET = "ws://127.0.0.1:8000/api/prompts"
COLORS = RNG.integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    sam = build_model("sam_debug")
    variables = init_model(sam, jax.random.key(3))
    return PageModel(SamPredictor(sam, variables), thresholds={"pred_iou": 0.0, "stability": 0.0})


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    rotated = Image.fromarray(COLORS)
    exif = rotated.getexif()
    exif[0x0112] = 6  # stored lying, shown upright: 60 rows, 40 columns
    rotated.save(tmp_path / "b.jpg", exif=exif, quality=95)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def open_client(project, token=""):
    return TestClient(make_app(project, token), base_url="http://127.0.0.1:8000")


@pytest.fixture
def project(folder, model):
    return Project(folder, model, ("cup",))


@pytest.fixture
def client(project):
    with open_client(project) as client:
        yield client


def ids(client):
    return {row["name"]: row["id"] for row in client.get("/api/state").json()["images"]}


def ask(socket, **message):
    socket.send_text(json.dumps(message))
    return json.loads(socket.receive_text())


def test_page_and_state(client):
    assert "<canvas" in client.get("/").text
    for file in ("main.js", "api.js", "view.js", "masks.js", "style.css"):
        assert client.get(f"/static/{file}").status_code == 200
    state = client.get("/api/state").json()
    assert [row["name"] for row in state["images"]] == ["a.png", "b.jpg"]
    assert state["classes"] == ["cup"] and not state["texts"] and not state["names"]


def test_turned_photographs_are_clicked_where_they_are_seen(client):
    id = ids(client)["b.jpg"]
    opened = client.post(f"/api/images/{id}", json={}).json()
    assert (opened["height"], opened["width"]) == (60, 40)
    shown = np.asarray(Image.open(io.BytesIO(client.get(f"/api/images/{id}/image.jpg").content)))
    assert shown.shape == (60, 40, 3)
    with client.websocket_connect(SOCKET) as socket:
        inside = ask(socket, request=1, image=id, steps=[{"points": [[10, 55, 1]]}])
        assert sum(inside["masks"][0]) == 60 * 40
        outside = ask(socket, request=2, image=id, steps=[{"points": [[55, 10, 1]]}])
        assert "outside" in outside["error"]


def test_prompts_are_refined_and_depend_on_nothing_else(client, project):
    id = ids(client)["a.png"]
    first = {"points": [[20, 20, 1]]}
    with client.websocket_connect(SOCKET) as socket:
        one = ask(socket, request=1, image=id, steps=[first])
        assert len(one["masks"]) == len(one["scores"]) == 3 and one["request"] == 1
        assert one["best"] == int(np.argmax(one["scores"]))
        second = {"points": [[20, 20, 1], [50, 5, 0]]}
        two = ask(socket, request=2, image=id, steps=[first | {"choice": 1}, second])
        assert len(two["masks"]) == 1
        box = ask(socket, request=3, image=id, steps=[{"box": [5, 5, 50, 30]}])
        assert len(box["masks"]) == 3
        preview = ask(socket, request=4, image=id, hover=True, steps=[first])
        assert preview["masks"] == [one["masks"][one["best"]]] and preview["hover"]
    # Another session, which asks for the refinement at once, gets the same mask
    project.model._logits.clear()
    with client.websocket_connect(SOCKET) as socket:
        again = ask(socket, request=9, image=id, steps=[first | {"choice": 1}, second])
    assert again["masks"] == two["masks"]


def test_of_many_previews_the_newest_is_answered(client, project, monkeypatch):
    id, gate, decoded = ids(client)["a.png"], threading.Event(), []
    original = project.decode

    def decode(message):
        gate.wait(10)
        decoded.append(message.request)
        return original(message)

    monkeypatch.setattr(project, "decode", decode)
    with client.websocket_connect(SOCKET) as socket:
        for number in range(20):
            text = dict(request=number, image=id, hover=True, steps=[{"points": [[number, 5, 1]]}])
            socket.send_text(json.dumps(text))
        # The answer to a malformed message tells that all others were read
        socket.send_text("{}")
        assert "request is missing" in json.loads(socket.receive_text())["error"]
        gate.set()
        answers = [json.loads(socket.receive_text())["request"]]
        while answers[-1] != 19:
            answers.append(json.loads(socket.receive_text())["request"])
    assert len(decoded) <= 3 and answers == decoded and decoded[-1] == 19


@pytest.mark.parametrize(
    "message, words",
    [
        ("no json", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"request": "1"}', "request is missing"),
        ('{"request": 1, "image": 3}', "image is missing"),
        ('{"request": 1, "image": "x"}', "steps are missing"),
        ('{"request": 1, "image": "x", "steps": [{}]}', "a step has no prompt"),
        ('{"request": 1, "image": "x", "steps": [{"points": [[1, 2]]}]}', "a point is not"),
        ('{"request": 1, "image": "x", "steps": [{"points": [[NaN, 2, 1]]}]}', "a point is not"),
        ('{"request": 1, "image": "x", "steps": [{"box": [1, 2, 3]}]}', "a box is not"),
        ('{"request": 1, "image": "x", "steps": [{"text": ""}]}', "a text is not"),
        ('{"request": 1, "image": "x", "steps": [{"points": [[1, 2, 1]]}]}', "no such image"),
        ('{"request": 1, "image": "../a", "steps": [{"box": [1, 2, 3, 4]}]}', "no such image"),
        ("[" * 5000, "no JSON"),
    ],
)
def test_malformed_messages_get_an_answer_and_the_socket_lives(client, message, words):
    id = ids(client)["a.png"]
    with client.websocket_connect(SOCKET) as socket:
        socket.send_text(message)
        assert words in json.loads(socket.receive_text())["error"]
        assert ask(socket, request=5, image=id, steps=[{"points": [[3, 4, 1]]}])["request"] == 5


def test_a_socket_closed_during_a_decode_harms_nobody(client, project, monkeypatch):
    id, started, gate = ids(client)["a.png"], threading.Event(), threading.Event()
    original = project.decode

    def decode(message):
        started.set()
        gate.wait(10)
        return original(message)

    monkeypatch.setattr(project, "decode", decode)
    with client.websocket_connect(SOCKET) as socket:
        text = dict(request=1, image=id, steps=[{"points": [[3, 4, 1]]}])
        socket.send_text(json.dumps(text))
        started.wait(10)
        gate.set()
    with client.websocket_connect(SOCKET) as socket:
        assert ask(socket, **text)["request"] == 1


def commit(client, id, **body):
    return client.post(f"/api/images/{id}/objects", json=body)


def test_commit_edit_remove_and_history(client, folder):
    id, steps = ids(client)["a.png"], [{"points": [[20, 20, 1]], "choice": 0}]
    body = dict(steps=steps, annotator="Ada", seconds=3.25, version=0)
    answer = commit(client, id, **body, **{"class": "cup"}).json()
    assert answer["version"] == 1 and [row["class"] for row in answer["objects"]] == ["cup"]
    stored = json.loads((folder / "masks" / "a.png.json").read_text())
    (row,) = stored["objects"]
    assert row["annotator"] == "Ada" and row["seconds"] == 3.2 and row["stage"] == "manual"
    assert len(row["model"]) == 16 and row["steps"][0]["points"] == [[20, 20, 1]]
    # Replaying the stored prompts gives the stored mask
    with client.websocket_connect(SOCKET) as socket:
        again = ask(socket, request=1, image=id, steps=row["steps"])
    mask = decode_runs(again["masks"][again["best"]], 40, 60)
    np.testing.assert_array_equal(decode_rle(row["segmentation"]), mask)
    # A painted edit, which replaces it
    painted = np.zeros((40, 60), bool)
    painted[5:9, 7:20] = True
    edited = commit(client, id, runs=encode_runs(painted), parent=row["id"], version=1).json()
    (now,) = edited["objects"]
    assert now["runs"] == encode_runs(painted) and now["id"] != row["id"]
    png = client.get(f"/api/images/{id}/objects/{now['id']}.png").content
    cut = np.asarray(Image.open(io.BytesIO(png)))
    assert cut.shape == (4, 13, 4) and (cut[..., 3] == 255).all()
    np.testing.assert_array_equal(cut[..., :3], COLORS[5:9, 7:20])
    # Removal; the history stays
    removed = commit(client, id, deleted=True, parent=now["id"]).json()
    assert removed["objects"] == [] and removed["version"] == 3
    stored = json.loads((folder / "masks" / "a.png.json").read_text())
    assert [r["parent"] for r in stored["objects"]] == [None, row["id"], now["id"]]


def test_two_people_never_overwrite_each_other(client, project):
    id, steps = ids(client)["a.png"], [{"points": [[20, 20, 1]]}]
    assert (
        client.post(f"/api/images/{id}", json={"session": "1", "annotator": "Ada"}).json()["holder"]
        is None
    )
    opened = client.post(f"/api/images/{id}", json={"session": "2", "annotator": "Bob"}).json()
    assert opened["holder"] == "Ada"
    refused = commit(client, id, steps=steps, session="2")
    assert refused.status_code == 409 and "Ada works on this image" in refused.json()["error"]
    assert commit(client, id, steps=steps, session="1", version=0).status_code == 200
    # Another server on the same folder has no leases, and sees the version
    with open_client(Project(project.images.folder, project.model)) as other:
        late = commit(other, id, steps=steps, version=0)
        assert late.status_code == 409 and "changed by another person" in late.json()["error"]
        assert commit(other, id, steps=steps, version=1).json()["version"] == 2


@pytest.mark.parametrize(
    "body, words",
    [
        ({}, "nothing to commit"),
        ({"runs": [3, 4]}, "runs of 7 pixels"),
        ({"runs": [2400]}, "the mask is empty"),
        ({"runs": [-1, 2401]}, "not a list of run lengths"),
        ({"runs": [0, 2400], "class": "x" * 200}, "class is not a text"),
        ({"runs": [0, 2400], "seconds": "soon"}, "seconds is not a number"),
        ({"runs": [0, 2400], "parent": 3}, "parent is not a str"),
        ({"runs": [0, 2400], "parent": "gone"}, "changed or removed meanwhile"),
        ({"deleted": True}, "nothing to commit"),
    ],
)
def test_bad_commits_change_nothing(client, folder, body, words):
    answer = commit(client, ids(client)["a.png"], **body)
    assert answer.status_code in (400, 409) and words in answer.json()["error"]
    assert not (folder / "masks" / "a.png.json").exists()


def test_a_full_disk_is_told_and_nothing_is_lost(client, folder, monkeypatch):
    id = ids(client)["a.png"]
    commit(client, id, runs=[0, 2400])
    before = (folder / "masks" / "a.png.json").read_bytes()

    def fail(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("segjax.files.write_atomic", fail)
    answer = commit(client, id, runs=[1, 2399])
    assert answer.status_code == 507 and "No space left on device" in answer.json()["error"]
    assert (folder / "masks" / "a.png.json").read_bytes() == before


def test_everything_streams_its_progress(client):
    id = ids(client)["a.png"]
    with client.stream("POST", f"/api/images/{id}/everything", json={}) as response:
        lines = [json.loads(line) for line in response.iter_lines()]
    assert lines[0]["total"] == 1024 and lines[-2] == {"done": 1024, "total": 1024}
    masks = lines[-1]["masks"]
    areas = [decode_runs(one["runs"], 40, 60).sum() for one in masks]
    assert areas and areas == sorted(areas, reverse=True)
    asked = client.post(f"/api/images/{id}/everything", json={"names": ["cup"]})
    assert "no CLIP is loaded" in asked.text or not masks


def test_exports_are_read_by_prepare(client, folder, tmp_path_factory):
    from segjax.data.prepare import prepare

    for name in ("a.png", "b.jpg"):
        id = ids(client)[name]
        hw = (40, 60) if name == "a.png" else (60, 40)
        mask = np.zeros(hw, bool)
        mask[3:20, 4:30] = True
        commit(client, id, runs=encode_runs(mask), **{"class": "cup"})
    content = client.get("/api/coco.json").json()
    assert [row["file_name"] for row in content["images"]] == ["a.png", "b.jpg"]
    assert content["categories"] == [{"id": 1, "name": "cup"}]
    (folder / "annotations.json").write_text(json.dumps(content))
    out = tmp_path_factory.mktemp("prepared")
    prepare("coco", folder, out)
    from segjax.data.storage import read_info

    counts = read_info(out).splits
    assert sum(split["objects"] for split in counts.values()) == 2
    archive = client.get("/api/sa1b.zip").content
    import zipfile

    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        assert sorted(files.namelist()) == ["a.json", "b.json"]
        assert len(json.loads(files.read("a.json"))["annotations"]) == 1


def test_uploads(client, folder):
    buffer = io.BytesIO()
    Image.fromarray(COLORS).save(buffer, "PNG")
    for name, wanted in (
        ("../../evil name.png", "evil_name.png"),
        ("a.png", "a_2.png"),
        ("C:\\x\\y.PNG", "y.png"),
    ):
        answer = client.post("/api/images", params={"name": name}, content=buffer.getvalue())
        assert answer.json()["name"] == wanted and (folder / wanted).is_file()
    for name, data, words in (
        ("x.png", b"no image", "x.png"),
        ("x.txt", buffer.getvalue(), "is no image; expected one of .png"),
    ):
        answer = client.post("/api/images", params={"name": name}, content=data)
        assert answer.status_code == 400 and words in answer.json()["error"]
    assert not list(folder.parent.glob("evil*"))


def test_images_of_too_many_pixels_are_refused(client, folder):
    import struct
    import zlib

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    answer = client.post(
        "/api/images", params={"name": "big.png"}, content=bomb + chunk(b"IEND", b"")
    )
    assert answer.status_code == 400 and "pixels" in answer.json()["error"]
    assert not (folder / "big.png").exists()


def test_a_folder_that_changes_underneath(client, folder):
    id = ids(client)["a.png"]
    commit(client, id, runs=[0, 2400])
    Image.fromarray(COLORS[:30]).save(folder / "a.png")
    answer = client.post(f"/api/images/{id}", json={})
    assert answer.status_code == 400 and "the image was replaced" in answer.json()["error"]
    (folder / "a.png").unlink()
    assert client.post(f"/api/images/{id}", json={}).status_code == 404
    (folder / "masks" / "b.jpg.json").write_text("{")
    assert "b.jpg.json" in client.get("/api/state").json()["error"]


def test_other_origins_and_hosts_are_refused(client):
    id = ids(client)["a.png"]
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
        assert client.get("/api/state", headers=headers).status_code == 403
        assert commit(client, id).request.url.host == "127.0.0.1"
        answer = client.post(f"/api/images/{id}/objects", json={"runs": [0, 2400]}, headers=headers)
        assert answer.status_code == 403
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers=headers):
            pass
    own = {"origin": "http://127.0.0.1:8000"}
    assert client.get("/api/state", headers=own).status_code == 200


def test_with_a_token_nobody_else_is_answered(project):
    with open_client(project, "secret") as client:
        for path in ("/", "/api/state", "/static/main.js", "/?token=guess"):
            assert client.get(path).status_code == 401
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET):
            pass
        assert client.get("/?token=secret").status_code == 200  # sets the cookie
        assert client.get("/api/state").status_code == 200
        with client.websocket_connect(SOCKET) as socket:
            assert "error" in ask(socket, request=1)


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/../setup.cfg"])
def test_no_path_leads_out_of_the_static_files(client, path):
    assert client.get(path).status_code == 404


def test_runs():
    for mask in (np.eye(3, dtype=bool), np.zeros((2, 3), bool), np.ones((2, 3), bool)):
        np.testing.assert_array_equal(decode_runs(encode_runs(mask), *mask.shape), mask)
    assert encode_runs(np.array([[False, True, True], [True, False, False]])) == [1, 3, 2]
