"""Automatic masks by shards: identical after a crash, every image once, bad images listed."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import jax
import numpy as np
import pytest
from PIL import Image

from segjax.engine.claims import claim
from segjax.engine.generate import SETTINGS, generate_shards
from segjax.engine.manifest import list_shards, order_shards
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.models.build import build_model, init_model

LOOSE = dict(points_per_side=4, crop_n_layers=0, pred_iou_thresh=0.0, stability_score_thresh=0.0)


@pytest.fixture(scope="module")
def generator():
    model = build_model("sam_debug")
    variables = init_model(model, jax.random.key(3))
    return SamAutomaticMaskGenerator(model, variables, **(SETTINGS | LOOSE))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(7):
        path = tmp_path / "in" / f"{'deep/' * (index % 2)}image_{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32 + index, 48, 3), np.uint8)).save(path)
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    return tmp_path / "in"


def read(out):
    """Every JSON of the tars by name."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            for entry in archive:
                assert entry.name not in found
                found[entry.name] = archive.extractfile(entry).read()
    return found


def bytes_of(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


def test_results_do_not_depend_on_who_computes_them(generator, folder, tmp_path):
    shards = list_shards(folder, 3)
    assert [len(shard.files) for shard in shards] == [3, 3, 2]
    one, two = tmp_path / "one", tmp_path / "two"
    progress = generate_shards(generator, folder, one, order_shards(shards, 0, 1, True))
    assert (progress.shards, progress.images, progress.broken) == (3, 7, 1)
    # Two processes that steal, the second one first
    for process in (1, 0):
        done = generate_shards(generator, folder, two, order_shards(shards, process, 2, True))
        assert done.shards + done.skipped == 3
    assert bytes_of(one) == bytes_of(two)
    # A rerun does nothing, and a lost file comes back byte by byte
    again = generate_shards(generator, folder, one, shards)
    assert (again.shards, again.skipped) == (0, 3)
    (one / "sa_000001.tar").unlink()
    assert generate_shards(generator, folder, one, shards).shards == 1
    assert bytes_of(one) == bytes_of(two)


def test_every_image_is_there_once_and_broken_ones_are_listed(generator, folder, tmp_path):
    out = tmp_path / "out"
    shards = list_shards(folder, 4)
    generate_shards(generator, folder, out, shards, with_images=True, images_per_batch=3)
    files = read(out)
    described = [json.loads(data) for name, data in files.items() if name.endswith(".json")]
    sources = sorted(content["image"]["source"] for content in described)
    assert sources == sorted(set(sources)) and len(sources) == 7 and "broken.png" not in sources
    for content in described:
        number = content["image"]["image_id"]
        assert files[f"sa_{number}.png"] == (folder / content["image"]["source"]).read_bytes()
    (errors,) = (path.read_text() for path in out.glob("*.errors.jsonl"))
    row = json.loads(errors)
    assert row["file"] == "broken.png" and "broken.png" in row["reason"]
    # segjax prepare sa1b reads the archives
    from segjax.data.prepare import prepare

    options = dict(held_out=0.0, min_iou=0.0, min_stability=0.0)
    report = prepare("sa1b", out, tmp_path / "prepared", **options)
    objects = sum(len(content["annotations"]) > 0 for content in described)
    assert report.splits["train"].images == objects > 0


def test_a_claim_is_given_to_one_process_and_taken_over_when_stale(tmp_path):
    path = tmp_path / "claims" / "x"
    with claim(path) as mine:
        assert mine
        with claim(path) as other:
            assert not other
    assert not path.exists()
    # A killed process leaves its claim
    path.mkdir()
    os.utime(path, (1, 1))
    with claim(path, stale=60) as mine:
        assert mine and path.stat().st_mtime > 1
    assert list(path.parent.iterdir()) == []


def test_orders_of_work():
    shards = [shard.index for shard in order_shards(list_shards_of(5), 1, 2, True)]
    assert shards == [1, 3, 0, 2, 4]
    assert [shard.index for shard in order_shards(list_shards_of(5), 1, 2, False)] == [1, 3]
    with pytest.raises(ValueError, match="shard 2/2; expected an index from 0 to 1"):
        order_shards(list_shards_of(5), 2, 2, True)


def list_shards_of(count):
    from segjax.engine.manifest import Shard

    return [Shard(index, index, (f"{index}.png",)) for index in range(count)]


@pytest.mark.parametrize(
    "lines, words",
    [
        ("a.png\na.png", "lists a.png twice"),
        ("../a.png", "leads out of the folder"),
        ("/a.png", "leads out of the folder"),
        ("", "has no images"),
    ],
)
def test_bad_manifests(tmp_path, lines, words):
    manifest = tmp_path / "list.txt"
    manifest.write_text(lines)
    with pytest.raises(ValueError, match=words):
        list_shards(tmp_path, 10, manifest)
    with pytest.raises(ValueError, match="0 images per shard"):
        list_shards(tmp_path, 0)


@pytest.mark.slow
def test_killed_at_random_moments(folder, tmp_path):
    """20 kills, then two workers to the end: the same bytes as one undisturbed run."""
    options = [
        "--points-per-side",
        "8",
        "--crop-layers",
        "0",
        "--pred-iou",
        "0",
        "--stability",
        "0",
    ]

    def start(out, *more):
        command = [sys.executable, "-m", "segjax", "engine", "generate", str(folder), str(out)]
        command += [*options, "--shard-size", "1", *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begin = time.monotonic()
    assert start(whole).wait() == 0
    seconds = time.monotonic() - begin
    rng = np.random.default_rng(0)
    for _ in range(20):
        process = start(killed)
        time.sleep(rng.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in (killed / ".claims").glob("*"):
            os.utime(path, (1, 1))  # as if ten minutes had passed
    workers = [start(killed, "--shard", f"{index}/2") for index in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    files = {name: data for name, data in bytes_of(killed).items() if not name.startswith(".")}
    assert files == bytes_of(whole)
