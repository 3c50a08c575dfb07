import contextlib
import functools
import hashlib
import http.server
import threading

import pytest

from segjax.weights.download import fetch, get_weights_folder
from segjax.weights.registry import PUBLISHED, PublishedFile
from segjax.weights.tree import CheckpointError

DATA = bytes(range(256)) * 5000  # more than one chunk


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """Yields the address of a server of tmp_path/served, and its list of requests."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "weights.pth").write_bytes(DATA)
    requests = []

    class Counting(Quiet):
        def do_GET(self):  # noqa: N802 - the library's name
            requests.append(self.path)
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
            elif self.path == "/endless.pth":  # without a length
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    for _ in range(10_000):
                        self.wfile.write(DATA)
                        requests.append("sent")
            else:
                super().do_GET()

    handler = functools.partial(Counting, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", requests
        server.shutdown()
        thread.join()


def entry(address, **changes):
    fields = dict(
        url=address + "weights.pth",
        bytes=len(DATA),
        sha256=hashlib.sha256(DATA).hexdigest(),
        license="none",
    )
    return PublishedFile(**fields | changes)


def test_a_file_is_fetched_once_and_then_found(server, tmp_path, capsys):
    address, requests = server
    path = fetch(entry(address), tmp_path / "cache")
    assert path == tmp_path / "cache" / "weights.pth" and path.read_bytes() == DATA
    assert "weights.pth" in capsys.readouterr().err  # progress
    assert fetch(entry(address), tmp_path / "cache") == path
    assert requests == ["/weights.pth"] and [p.name for p in path.parent.iterdir()] == [
        "weights.pth"
    ]


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(sha256="0" * 64), "not the published file: its SHA-256 is .* expected 0000"),
        (dict(bytes=len(DATA) + 1), "has 1,280,000 bytes, expected 1,280,001"),
    ],
)
def test_another_file_is_refused_and_thrown_away(server, tmp_path, changes, said):
    with pytest.raises(CheckpointError, match=said):
        fetch(entry(server[0], **changes), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_download_of_another_size_ends_at_once(server, tmp_path):
    address, requests = server
    with pytest.raises(CheckpointError, match="has 1,280,000 bytes, expected 1,000"):
        fetch(entry(address, bytes=1000), tmp_path / "cache")
    file = entry(address, url=address + "endless.pth")
    with pytest.raises(CheckpointError, match="endless.pth has more than 1,280,000 bytes"):
        fetch(file, tmp_path / "cache")
    assert requests.count("sent") < 100  # of 10,000: a few fill the buffers of the sockets
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/a.pth", "ftp://127.0.0.1/a.pth", "//h/a"])
def test_redirects_lead_to_https_alone(server, tmp_path, target):
    file = entry(server[0], url=server[0] + "to/" + target)
    with pytest.raises(ConnectionError, match="redirects to .*, and only https is followed"):
        fetch(file, tmp_path / "cache")


def test_a_file_that_was_put_there_by_hand_is_checked_and_kept(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(DATA)
    assert fetch(entry("http://nowhere.invalid/"), tmp_path) == path
    path.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(CheckpointError, match="weights.pth is not the published file"):
        fetch(entry("http://nowhere.invalid/"), tmp_path)
    assert path.is_file()


@pytest.mark.parametrize("place", ["gone.pth", "unreachable"])
def test_without_the_file_or_the_network_the_error_says_what_to_do(server, tmp_path, place):
    url = server[0] + "gone.pth" if place == "gone.pth" else "http://127.0.0.1:9/gone.pth"
    with pytest.raises(ConnectionError) as error:
        fetch(entry("", url=url), tmp_path / "cache")
    said = str(error.value)
    assert said.startswith("gone.pth (1,280,000 bytes) is not in the cache and cannot be fetched: ")
    assert (
        f"Fetch {url} where there is a network and put it at {tmp_path / 'cache' / 'gone.pth'}"
        in said
    )


def test_the_cache_is_where_the_user_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert get_weights_folder() == tmp_path / "segjax" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert get_weights_folder() == tmp_path / "home" / ".cache" / "segjax" / "weights"


def test_the_registry_names_files_by_the_models_that_read_them():
    for model, file in PUBLISHED.items():
        assert file.url.startswith("https://") and int(file.sha256, 16) and file.bytes > 0
        if model.startswith("clip_"):
            plain = model.removeprefix("clip_").replace("_", "-")
            assert file.name.lower().replace("px.pt", ".pt") == f"{plain}.pt"
            assert len(file.sha256) == 64 and file.license == "MIT" and file.sha256 in file.url
            continue
        assert file.name.startswith(f"{model}_")
        if model.startswith("sam_"):
            assert len(file.sha256) == 64 and file.license == "Apache-2.0" and not file.rounding
        else:
            assert file.name.endswith(f"-{file.sha256}.pth") and file.license == "BSD-3-Clause"


def test_a_rounded_size_and_the_first_digits_of_a_checksum_are_verified(server, tmp_path):
    address, _ = server
    digits = hashlib.sha256(DATA).hexdigest()[:8]
    known = dict(bytes=len(DATA) - 500, rounding=1000, sha256=digits)
    fetch(entry(address, **known), tmp_path / "cache")
    with pytest.raises(CheckpointError, match="expected a beginning of 12345678"):
        fetch(entry(address, **known | {"sha256": "12345678"}), tmp_path / "other")
    with pytest.raises(CheckpointError, match="has 1,280,000 bytes, expected about 1,279,500"):
        fetch(entry(address, **known | {"rounding": 400}), tmp_path / "third")
