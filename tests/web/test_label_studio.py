"""The Label Studio backend: prompts, pre-annotations, webhooks, and what it refuses."""

import base64
import http.server
import io
import json
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import decode_rle
from segjax.models.build import build_model, init_model
from segjax.web.label_studio.app import make_label_studio_app
from segjax.web.label_studio.backend import LabelStudioBackend
from segjax.web.label_studio.brush import decode_brush, encode_brush
from segjax.web.label_studio.prompts import parse_config, parse_context
from segjax.web.label_studio.task_images import TaskImages
from segjax.web.segmenter import PageModel

COLORS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
CONFIG = """<View><Image name="photo" value="$image"/>
<BrushLabels name="brush" toName="photo"><Label value="cup"/><Label value="spoon"/></BrushLabels>
<KeyPointLabels name="point" toName="photo" smart="true"><Label value="spoon"/></KeyPointLabels>
</View>"""


def encode_png(image=COLORS):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


DATA_URL = "data:image/png;base64," + base64.b64encode(encode_png()).decode()


@pytest.fixture(scope="module")
def model():
    sam = build_model("sam_debug")
    variables = init_model(sam, jax.random.key(3))
    return PageModel(SamPredictor(sam, variables), thresholds={"pred_iou": 0.0, "stability": 0.0})


@pytest.fixture
def client(model, tmp_path):
    backend = LabelStudioBackend(model, TaskImages(), tmp_path / "queue")
    with TestClient(make_label_studio_app(backend), base_url="http://127.0.0.1:9090") as client:
        yield client


def keypoint(x, y, **more):
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": ["spoon"]}
    frame = {"original_width": 60, "original_height": 40, "image_rotation": 0}
    return {"type": "keypointlabels", "value": value, **frame, "is_positive": 1, **more}


def rectangle(x, y, width, height):
    value = {"x": x, "y": y, "width": width, "height": height, "rectanglelabels": ["cup"]}
    return {"type": "rectanglelabels", "value": value}


def predict(client, *regions, image=DATA_URL, **changes):
    body = {
        "tasks": [{"id": 7, "data": {"image": image}}],
        "project": "1.5",
        "label_config": CONFIG,
    }
    if regions:
        body["params"] = {"context": {"result": list(regions)}}
    return client.post("/predict", json=body | changes)


def test_health_and_setup(client, model):
    assert client.get("/health").json() == {"status": "UP", "model_class": "segjax"}
    answer = client.post("/setup", json={"project": "1.5", "schema": CONFIG, "hostname": "x"})
    assert answer.json() == {"model_version": model.hash}
    # The config of the project is remembered
    assert predict(client, keypoint(50, 50), label_config=None).status_code == 200
    assert predict(client, keypoint(50, 50), label_config=None, project="2").status_code == 400


def test_percent_become_pixels_and_masks_come_back(client, model):
    answer = predict(client, keypoint(50, 25), keypoint(10, 90, is_positive=0))
    (row,) = answer.json()["results"]
    (region,) = row["result"]
    predictor = SamPredictor(model.predictor.model, model.predictor.variables)
    predictor.set_image(COLORS)
    masks, scores, _ = predictor.predict(np.array([[30.0, 10.0], [6.0, 36.0]]), np.array([1, 0]))
    best = int(np.argmax(scores))
    np.testing.assert_array_equal(decode_brush(region["value"]["rle"], 40, 60), masks[best])
    assert region["score"] == pytest.approx(float(scores[best]))
    assert region["value"]["brushlabels"] == ["spoon"] and region["value"]["format"] == "rle"
    assert (region["from_name"], region["to_name"], region["type"]) == (
        *("brush", "photo"),
        "brushlabels",
    )
    assert (region["original_width"], region["original_height"]) == (60, 40)
    assert row["model_version"] == model.hash


def test_contexts_become_steps():
    prompt = parse_context([rectangle(10, 10, 5, 5), rectangle(50, 25, 50, 75)], 40, 60)
    assert prompt.step.box == (30, 10, 60, 40) and prompt.label == "cup"
    assert parse_context([keypoint(100, 100)], 40, 60).step.points == ((59, 39, 1),)
    assert parse_context([{"type": "brushlabels", "value": {}}], 40, 60) is None
    config = parse_config(CONFIG)
    assert (config.brush, config.image, config.field) == ("brush", "photo", "image")


def test_without_context_everything_is_segmented(client, model):
    (row,) = predict(client).json()["results"]
    records = model.find_everything(COLORS, lambda done, total: None)
    assert len(row["result"]) == len(records) > 0
    for region, record in zip(row["result"], records, strict=True):
        mask = decode_brush(region["value"]["rle"], 40, 60)
        np.testing.assert_array_equal(mask, record["segmentation"])
        assert region["value"]["brushlabels"] == ["cup"]
    assert len({region["id"] for region in row["result"]}) == len(records)


def test_photographs_are_segmented_upright(client):
    file, image = io.BytesIO(), Image.fromarray(COLORS)
    exif = image.getexif()
    exif[0x0112] = 6  # stored lying, shown upright: 60 rows, 40 columns
    image.save(file, "JPEG", exif=exif)
    url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    point = keypoint(20, 90, original_width=40, original_height=60)
    region = predict(client, point, image=url).json()["results"][0]["result"][0]
    assert (region["original_height"], region["original_width"]) == (60, 40)
    assert "EXIF" in predict(client, keypoint(20, 90), image=url).json()["error"]


@pytest.mark.parametrize(
    ("regions", "changes", "message"),
    [
        ([keypoint(150, 5)], {}, "0 to 100"),
        ([keypoint("a", 5)], {}, "expected percent"),
        ([keypoint(5, 5, image_rotation=90)], {}, "turn it upright"),
        ([keypoint(5, 5, is_positive=2)], {}, "expected 0 or 1"),
        ([keypoint(5, 5, value={"x": 1, "y": 1})], {}, "has no label"),
        ([5], {}, "not a list of regions"),
        ([], {"tasks": 5}, "tasks are missing"),
        ([], {"tasks": [{"id": 7, "data": {}}]}, "task 7 has no data"),
        ([keypoint(5, 5)], {"tasks": []}, "belongs to one task"),
        ([], {"label_config": "<View"}, "no XML"),
        ([], {"label_config": "<View/>"}, "no <BrushLabels>"),
        ([], {"label_config": "<!DOCTYPE a [<!ENTITY b 'c'>]><View/>"}, "entities"),
        ([keypoint(5, 5)], {"label_config": CONFIG.replace("spoon", "fork")}, "no brush label"),
        ([], {"image": "data:image/png;base64,AAAA"}, "image of task 7"),
        ([], {"image": "data:image/png;base64,?"}, "damaged"),
        ([], {"image": "data:image/png,AAAA"}, "not base64"),
        ([], {"image": 5}, "expected an address"),
        ([], {"image": "/data/upload/1/a.png"}, "--url"),
        ([], {"image": "http://10.0.0.1:81/a.png"}, "--image-host 10.0.0.1:81"),
        ([], {"image": "file:///etc/passwd"}, "is no image"),
    ],
)
def test_bad_requests_are_explained(client, regions, changes, message):
    answer = predict(client, *regions, **changes)
    assert answer.status_code == 400 and message in answer.json()["error"]


def test_only_files_of_the_folder_are_read(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a b.png").write_bytes(b"inside")
    (tmp_path / "secret.png").write_bytes(b"outside")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    images = TaskImages(folder=folder)
    assert images.read("/data/local-files/?d=sub/a%20b.png") == b"inside"
    for path in ("../secret.png", "%2e%2e/secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(ValueError, match="outside"):
            images.read(f"/data/local-files/?d={path}")
    with pytest.raises(FileNotFoundError):
        images.read("/data/local-files/?d=none.png")
    with pytest.raises(ValueError, match="names no file"):
        images.read("/data/local-files/")
    with pytest.raises(NotADirectoryError):
        TaskImages(folder=tmp_path / "none")


@pytest.fixture
def label_studio():
    """A server that needs the token under /data/, and redirects under /away."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            token = self.headers.get("Authorization")
            seen.append((self.path, token))
            refused = self.path.startswith("/data/") and token != "Token key"
            away = self.path == "/away"
            self.send_response(302 if away else 401 if refused else 200)
            if away:
                self.send_header("Location", "/data/a.png")
            self.end_headers()
            self.wfile.write(b"image")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def test_the_token_goes_to_label_studio_alone(label_studio):
    url, seen = label_studio
    images = TaskImages(url, "key")
    assert images.read("/data/upload/1/a.png") == b"image"
    assert images.read(f"{url}/data/upload/1/a.png") == b"image"
    with pytest.raises(ValueError, match="refused"):
        images.read(url.replace("127.0.0.1", "user@127.0.0.1") + "/a.png")
    with pytest.raises(OSError, match="401.*token"):
        TaskImages(url, "wrong").read("/data/upload/1/a.png")
    # Another host that is allowed receives no token, and cannot send us elsewhere
    host = url.removeprefix("http://")
    other = TaskImages("http://label-studio.example", "key", [host])
    assert other.read(f"{url}/a.png") == b"image" and seen[-1] == ("/a.png", None)
    with pytest.raises(OSError, match="302"):
        other.read(f"{url}/away")
    assert seen[-1][0] == "/away"
    with pytest.raises(ValueError, match="--image-host"):
        TaskImages(hosts=["127.0.0.1"]).read(f"{url}/a.png")  # the port of http alone
    for wrong in ({"url": "localhost:8080"}, {"hosts": ["http://a"]}, {"hosts": ["*"]}):
        with pytest.raises(ValueError, match="expected one such as"):
            TaskImages(**wrong)


def make_event(action="ANNOTATION_CREATED", **changes):
    mask = np.zeros((40, 60), bool)
    mask[5:20, 10:30] = True
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["cup"]}
    region = {"type": "brushlabels", "value": value, "original_width": 60, "original_height": 40}
    annotation = {"id": 3, "result": [region | changes, keypoint(5, 5)]}
    task = {"id": 7, "data": {"image": "/data/upload/1/a.png"}}
    return mask, {"action": action, "annotation": annotation, "task": task, "project": {"id": 1}}


def test_annotations_queue_a_retraining(client, tmp_path):
    mask, event = make_event()
    for action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
        answer = client.post("/webhook", json=event | {"action": action})
        assert answer.json() == {"status": "queued", "files": ["1-7-3.json"]}
    (file,) = (tmp_path / "queue").iterdir()
    content = json.loads(file.read_text())
    assert content["action"] == "ANNOTATION_UPDATED" and content["data"] == event["task"]["data"]
    (row,) = content["objects"]
    np.testing.assert_array_equal(decode_rle(row["segmentation"]), mask)
    assert row["label"] == "cup"
    assert "ignored" in client.post("/webhook", json={"action": "TASKS_CREATED"}).json()["status"]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (make_event(original_width=61)[1], "its size is not"),
        (make_event(original_width="a")[1], "no original size"),
        (make_event()[1] | {"project": {"id": "../x"}}, "expected ids"),
        ({"action": "ANNOTATION_CREATED"}, "switch on the webhook's payload"),
    ],
)
def test_bad_events_queue_nothing(client, tmp_path, event, message):
    answer = client.post("/webhook", json=event)
    assert answer.status_code == 400 and message in answer.json()["error"]
    assert not (tmp_path / "queue").exists()


def test_webhooks_do_not_wait_for_the_network(model, tmp_path, monkeypatch):
    started, free = threading.Event(), threading.Event()

    def wait(*_):
        started.set()
        assert free.wait(30)
        return []

    monkeypatch.setattr(model, "find_everything", wait)
    backend = LabelStudioBackend(model, TaskImages(), tmp_path)
    with TestClient(make_label_studio_app(backend), base_url="http://127.0.0.1:9090") as client:
        answers = []
        busy = threading.Thread(target=lambda: answers.append(predict(client)))
        busy.start()
        assert started.wait(30)
        assert client.post("/webhook", json=make_event()[1]).json()["status"] == "queued"
        assert not answers
        free.set()
        busy.join()
    assert answers[0].json()["results"][0]["result"] == []


def test_other_machines_need_the_password(model, tmp_path):
    app = make_label_studio_app(LabelStudioBackend(model, TaskImages(), tmp_path), "secret")
    with TestClient(app, base_url="http://segjax:9090") as client:
        assert client.get("/health").status_code == 401
        assert client.get("/health", auth=("any", "wrong")).status_code == 401
        assert client.get("/health", headers={"authorization": "Basic ?"}).status_code == 401
        assert client.get("/health", auth=("any", "secret")).status_code == 200
