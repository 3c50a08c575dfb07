"""Readers of raw data: all of `prepare`, with a small valid folder in each layout."""

import functools
import json

import numpy as np
import raw_folders
import scipy.io

from fuzzing.binary_formats import write_tar
from fuzzing.harness import Reader
from fuzzing.image_readers import IMAGE_TOKENS, MASK, RUNS
from segjax.data.prepare import prepare
from segjax.masks import encode_mask

# Loaded before the children are forked
from segjax.data.sources import (  # noqa: F401 isort: skip
    bsds500,
    cityscapes,
    coco,
    images,
    label_maps,
    lvis,
    sa1b,
)

SQUARE = raw_folders.square(3, 3, 8)


def _prepare(source, folder, **options):
    prepare(source, folder, folder.parent / "out", keep_empty=True, **options)


def make_annotations():
    packed = {"size": [20, 30], "counts": encode_mask(MASK)}
    plain = {"size": [20, 30], "counts": RUNS}
    boxed = dict(bbox=[3.0, 3.0, 8.0, 8.0], area=64.0)
    segmentations = ([SQUARE], packed, plain, [SQUARE, raw_folders.square(15, 5, 4)])
    return [
        raw_folders.annotation(number, each, **boxed) for number, each in enumerate(segmentations)
    ]


def _make_coco(folder):
    raw_folders.write_coco(folder / "flat", make_annotations())
    raw_folders.write_coco(folder / "twice", make_annotations())
    raw_folders.write_coco(folder / "twice", make_annotations()[:1], split="val")


def _make_keypoints(folder):
    points = [raw_folders.annotation(1, [SQUARE], keypoints=[4, 4, 2, 9, 9, 1], num_keypoints=2)]
    raw_folders.write_keypoints(folder / "a", points, ["left_eye", "right_eye"])


def _make_lvis(folder):
    raw_folders.write_lvis(folder / "a", make_annotations())


def _make_label_maps(folder):
    raw_folders.write_label_maps(folder / "maps", 1)
    raw_folders.write_kaggle(folder / "kaggle", 1)


def _make_bsds(folder):
    for name, packed in (("plain", False), ("packed", True)):
        raw_folders.write_bsds(folder / name, ("train",))
        path = folder / name / "groundTruth" / "train" / "11.mat"
        cells = scipy.io.loadmat(path)["groundTruth"]
        scipy.io.savemat(path, {"groundTruth": cells}, do_compression=packed)


def _make_cityscapes(folder):
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 3:9], labels[9:12, 4:9], labels[15:, 20:] = 24001, 26002, 25
    raw_folders.write_cityscapes(folder / "a", labels)


def _make_sa1b(folder):
    segmentation = {"size": [20, 30], "counts": encode_mask(MASK)}
    objects = [
        {"id": number, "segmentation": segmentation, "predicted_iou": 0.9, "stability_score": 0.97}
        for number in range(3)
    ]
    text = json.dumps({"image": {"height": 20, "width": 30}, "annotations": objects})
    for number in range(2):
        image = raw_folders.write_image(folder / "folder" / f"sa_{number}.jpg", seed=number)
        image.with_suffix(".json").write_text(text)
    files = sorted((folder / "folder").iterdir())
    (folder / "tar").mkdir()
    data = write_tar([(path.name, path.read_bytes()) for path in files])
    (folder / "tar" / "sa_000000.tar").write_bytes(data)


def _make_image_folders(folder):
    for name in ("cat/1.png", "cat/2.jpg", "dog/3.png"):
        raw_folders.write_image(folder / "a" / "train" / name)


def _source(source, make_seeds, tokens=(), *, name="", allowed=(), **options):
    """Returns the fuzzed reader of raw data: all of `prepare`."""
    read = functools.partial(_prepare, source, **options)
    words = ("split", "raw folder")
    return Reader(name or source, make_seeds, read, words, tokens, allowed=allowed)


PATHS = ("../../../beside/x.png", "/etc/hostname", "a/../../x.jpg", "7.jpg", "images/7.jpg")

READERS = (
    _source("coco", _make_coco, PATHS),
    _source("coco", _make_keypoints, PATHS, name="keypoints", keypoints=True),
    _source("lvis", _make_lvis, PATHS),
    _source("label_maps", _make_label_maps, IMAGE_TOKENS),
    _source("sa1b", _make_sa1b, ("sa_0.jpg", "sa_1.json", "../sa_0.jpg"), held_out=0),
    _source("bsds500", _make_bsds, allowed=("process",)),
    _source("cityscapes", _make_cityscapes, IMAGE_TOKENS),
    _source("images", _make_image_folders, IMAGE_TOKENS, name="image_folders", held_out=0),
)
