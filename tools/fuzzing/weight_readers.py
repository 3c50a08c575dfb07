"""Readers of weights, runs and downloads, with small valid inputs for each."""

import contextlib
import hashlib
import itertools
import json
import pickle
import socket
import threading
import zipfile

import jax
import numpy as np
import written_run

from fuzzing.harness import Reader
from fuzzing.verdicts import WrongValueError
from segjax.files import write_json
from segjax.inference.loading import read_model
from segjax.tasks import make_task
from segjax.training.workdir import record_config, to_plain_dict
from segjax.viz.plots import plot_training_curves
from segjax.weights import download
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.pickle_file import read_pickle
from segjax.weights.registry import PublishedFile
from segjax.weights.safetensors import save_variables
from segjax.weights.torch_file import read_torch
from segjax.weights.torch_writer import write_torch

ARRAYS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(4, 6),
    "a.bias": np.arange(4, dtype=np.float16),
    "steps": np.array([3], np.int64),
}
CODE = ("os", "system", "fuzz_canary", "builtins", "eval", "torch", "FloatStorage", "storage")
MODELS = ("sam_debug", "sam_vit_h", "mae_debug", "float64", "object", "canvas", "depth", "dtype")
NUMBERS = ("1000000000", "-1", "1e9", "nan", "[]", "true")


def _hash(tree) -> str:
    """Returns a checksum of the arrays of nested dicts."""
    digest = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# Files of other libraries


def _make_torch(folder):
    """Writes an archive as torch does, a compressed one, and one of the format before torch 1.6."""
    for name in ("stored", "deflated", "legacy"):
        (folder / name).mkdir()
    write_torch(folder / "stored" / "a.pth", ARRAYS)
    with zipfile.ZipFile(folder / "stored" / "a.pth") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "deflated" / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    machine = {"protocol_version": 1001, "little_endian": True}
    keys = [str(number) for number in range(len(ARRAYS))]
    heads = (0x1950A86A20F9469CFC6C, 1001, machine)
    parts = [pickle.dumps(head, 2) for head in heads]
    parts += [members["archive/data.pkl"], pickle.dumps(keys, 2)]
    parts += [array.size.to_bytes(8, "little") + array.tobytes() for array in ARRAYS.values()]
    (folder / "legacy" / "a.pth").write_bytes(b"".join(parts))


def _read_torch(folder):
    _touch(read_torch(folder / "a.pth"))


def _touch(content):
    """Reads the bytes of all arrays in nested containers, a few containers deep."""
    queue = [(content, 0)]
    while queue:
        value, depth = queue.pop()
        if isinstance(value, np.ndarray):
            value.tobytes()
        elif isinstance(value, dict | list | tuple) and depth < 4:
            children = value.values() if isinstance(value, dict) else value
            queue += [(child, depth + 1) for child in children]


def _make_pickle(folder):
    for protocol in (2, 4):
        (folder / f"protocol{protocol}").mkdir()
        data = pickle.dumps({"model": ARRAYS, "__author__": "somebody"}, protocol)
        (folder / f"protocol{protocol}" / "a.pkl").write_bytes(data)


def _read_pickle(folder):
    _touch(read_pickle(folder / "a.pkl"))


# Files and runs of a small SAM


def _make_safetensors(folder):
    (folder / "a").mkdir()
    metadata = {"model": {"name": "sam_debug", "canvas": 64, "dtype": "float32"}}
    save_variables(folder / "a" / "a.safetensors", written_run.debug_variables(), metadata)


def _read_safetensors(folder):
    network, variables, *_ = read_model(str(folder / "a.safetensors"))
    return None if network is None else _hash(variables)


def _make_published(folder):
    """Writes a state dict with the names that are published."""
    for name in ("a.pth", "a.safetensors"):
        (folder / name).mkdir()
        path = folder / name / name
        write_checkpoint(path, written_run.debug_variables(), format="official", metadata={})


def _read_published(folder):
    for path in folder.iterdir():
        read_checkpoint(path)
        read_model("sam_debug", path)


def _make_run(folder):
    written_run.write_run(folder / "a")


def _read_run(folder):
    return _hash(read_model(str(folder))[1])


def _make_config(folder):
    (folder / "a").mkdir()
    write_json(folder / "a" / "config.json", to_plain_dict(written_run.debug_config()))


def _read_config(folder):
    """Compares the config with the recorded one, as a run that resumes does."""
    config = written_run.debug_config()
    task = make_task(config)
    record_config(task.complete_config(config), folder, task.complete_config, resuming=True)


def _make_metrics(folder):
    (folder / "a").mkdir()
    rows = [{"step": step, "loss": 1 / (1 + step), "iou@1": step / 9} for step in range(4)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "a" / "metrics.jsonl").write_text(text)


def _read_metrics(folder):
    plot_training_curves(folder / "metrics.jsonl", folder.parent / "curve.png")


# Downloads

CONTENT = bytes(range(256)) * 40


WHOLE = (
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(CONTENT) + CONTENT
)


def _make_downloads(folder):
    """Writes what a server answers first, the content or a redirect. Later it sends the content."""
    moved = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    for name, data in (("whole", WHOLE), ("moved", moved)):
        (folder / name).mkdir()
        (folder / name / "response.http").write_bytes(data)


def _read_download(folder):
    response = folder / "response.http"
    first = response.read_bytes() if response.exists() else b""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer, args=(server, first), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/weights.pth"
        file = PublishedFile(url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "none")
        if download.fetch(file, folder.parent / "out").read_bytes() != CONTENT:
            raise WrongValueError("another content than the published one")


def _answer(server, first):
    """Answers requests until the server is closed."""
    answers = itertools.chain([first], itertools.repeat(WHOLE))
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            connection.settimeout(5)
            with contextlib.suppress(OSError), connection:
                connection.recv(1 << 16)
                connection.sendall(next(answers))
                connection.shutdown(socket.SHUT_WR)


REDIRECTS = (
    *("ftp://127.0.0.1/x", "file:///etc/hostname", "http://example.com/x", "http://127.0.0.1:9/x"),
    *("302 Found", "Location", "Content-Length", "Transfer-Encoding: chunked", "206 Partial"),
    *("200 OK", "404 Not Found", "999999999999", "Content-Encoding: gzip", "\r\n", "HTTP/1.0"),
)

READERS = (
    Reader("torch", _make_torch, _read_torch, tokens=CODE),
    Reader("pickle", _make_pickle, _read_pickle, tokens=CODE),
    Reader("safetensors", _make_safetensors, _read_safetensors, tokens=(*MODELS, *NUMBERS)),
    Reader("published", _make_published, _read_published, tokens=(*MODELS, *CODE)),
    Reader("run", _make_run, _read_run, tokens=(*MODELS, *NUMBERS), exact=True),
    Reader("config", _make_config, _read_config, words=("config",), tokens=MODELS),
    Reader("metrics", _make_metrics, _read_metrics),
    Reader(
        "downloads",
        _make_downloads,
        _read_download,
        ("weights.pth",),
        REDIRECTS,
        False,
        ("network",),
    ),
)
