"""Small raw folders in each published layout, for tests of the readers and of `prepare`."""

import json
import pathlib
import struct
import zlib

import numpy as np
import scipy.io
from PIL import Image


def write_image(
    path: pathlib.Path, height: int = 20, width: int = 30, seed: int = 0
) -> pathlib.Path:
    """Writes a noisy RGB image in the format of the suffix of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def truncate(path: pathlib.Path, keep: float = 0.5) -> pathlib.Path:
    """Cuts a file short, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def png_of_zero_width() -> bytes:
    """Returns a well-formed PNG whose header declares 0 columns."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def two_labels(height: int = 20, width: int = 30) -> np.ndarray:
    """Returns a label map with object 1 (rows 2..5, columns 3..8) and object 700 in two parts."""
    labels = np.zeros((height, width), np.uint16)
    labels[2:6, 3:9] = 1
    labels[10:12, 0:4] = 700
    labels[15:20, 25:30] = 700
    return labels


def write_label_maps(folder: pathlib.Path, count: int = 2) -> pathlib.Path:
    """Writes images/ and labels/ of a0, a1, ..."""
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_image(folder / "images" / f"a{index}.png", seed=index)
        Image.fromarray(two_labels()).save(folder / "labels" / f"a{index}.png")
    return folder


def write_kaggle(folder: pathlib.Path, count: int = 2) -> pathlib.Path:
    """Writes <id>/images/<id>.png and <id>/masks/*.png, one mask file per object."""
    for index in range(count):
        item = folder / f"k{index}"
        write_image(item / "images" / f"k{index}.png", seed=index)
        (item / "masks").mkdir(parents=True)
        for value in (1, 700):
            mask = (two_labels() == value).astype(np.uint8) * 255
            Image.fromarray(mask).save(item / "masks" / f"m{value}.png")
    return folder


def write_bsds(folder: pathlib.Path, splits: tuple[str, ...] = ("train", "val")) -> pathlib.Path:
    """Writes images/<split>/11.jpg, and groundTruth/<split>/11.mat with 2 and 3 regions."""
    for split in splits:
        write_image(folder / "images" / split / "11.jpg")
        coarse = np.ones((20, 30), np.uint16)
        coarse[:, 15:] = 2
        fine = coarse.copy()
        fine[10:, 15:] = 3
        write_ground_truth(folder / "groundTruth" / split / "11.mat", [coarse, fine])
    return folder


def write_ground_truth(path: pathlib.Path, maps: list[np.ndarray]) -> None:
    """Writes a .mat file like Berkeley's: per annotator, Segmentation and Boundaries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.empty((1, len(maps)), object)
    for index, regions in enumerate(maps):
        cells[0, index] = {"Segmentation": regions, "Boundaries": np.zeros_like(regions, np.uint8)}
    scipy.io.savemat(path, {"groundTruth": cells})


def square(x: float, y: float, side: float) -> list[float]:
    """Returns the polygon of a square whose upper left corner is (x, y)."""
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def annotation(identity: int, segmentation: object, **fields: object) -> dict:
    """Makes a COCO annotation of image 7 and category 3, changed by `fields`."""
    base = {
        "id": identity,
        "image_id": 7,
        "category_id": 3,
        "iscrowd": 0,
        "segmentation": segmentation,
    }
    return base | fields


def write_coco(
    folder: pathlib.Path, annotations: list[dict], split: str = "train", images: list | None = None
) -> pathlib.Path:
    """Writes instances_<split>.json with categories 3 and 9, and images/7.jpg (20 x 30 px)."""
    write_image(folder / "images" / "7.jpg")
    content = {
        "images": images or [{"id": 7, "file_name": "7.jpg", "height": 20, "width": 30}],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "zebra"}, {"id": 3, "name": "cup"}],
    }
    (folder / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def write_keypoints(
    folder: pathlib.Path, annotations: list[dict], names: list[str], split: str = "train"
) -> pathlib.Path:
    """Writes person_keypoints_<split>.json with one category, 3, and images/7.jpg."""
    write_coco(folder, annotations, split)
    path = folder / f"instances_{split}.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 3, "name": "person", "keypoints": names, "skeleton": [[1, 2]]}]
    path.write_text(json.dumps(content))
    path.rename(folder / f"person_keypoints_{split}.json")
    return folder


def write_lvis(folder: pathlib.Path, annotations: list[dict], **image: object) -> pathlib.Path:
    """Writes lvis_v1_val.json with categories 3 (frequent) and 9 (rare), and one photograph."""
    write_image(folder / "train2017" / "000000000007.jpg")
    url = "http://images.cocodataset.org/train2017/000000000007.jpg"
    base = {"id": 7, "coco_url": url, "height": 20, "width": 30}
    base |= {"neg_category_ids": [9], "not_exhaustive_category_ids": [3]}
    categories = [("cup", 3, "f"), ("zebra", 9, "r")]
    content = {
        "images": [base | image],
        "annotations": [
            {name: value for name, value in each.items() if name != "iscrowd"}
            for each in annotations
        ],
        "categories": [
            {"id": i, "name": n, "frequency": f, "synset": f"{n}.n.01"} for n, i, f in categories
        ],
    }
    (folder / "lvis_v1_val.json").write_text(json.dumps(content))
    return folder


def write_cityscapes(folder: pathlib.Path, labels: np.ndarray, split: str = "val") -> pathlib.Path:
    """Writes one frame of Ulm with an instance map [H, W]."""
    frame = "ulm_000001_000019"
    write_image(folder / "leftImg8bit" / split / "ulm" / f"{frame}_leftImg8bit.png", *labels.shape)
    path = folder / "gtFine" / split / "ulm" / f"{frame}_gtFine_instanceIds.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint16)).save(path)
    return folder
