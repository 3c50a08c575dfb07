"""The one record schema: a picture and its object masks, whatever data set they came from.

A record is a dict. Pixels are those of the stored picture; boxes are continuous edges, so a mask that fills
pixel columns a..b has x1 = a and x2 = b + 1.

  image     encoded PNG or JPEG bytes, or uint8 [H, W, 3]
  image_id  str, unique in its split
  height, width   int, px
  label     int, optional: class of the whole picture, 0..K-1; a picture whose class is unknown has none
  objects   dict of arrays with one row per object:
    id int64 [G]     box float32 [G, 4] x1 y1 x2 y2     category int32 [G], 0..K-1     crowd bool [G]
    area float32 [G], px     rle list of G str, COCO's compressed run lengths, whose size is (height, width)
    optional: keypoints float32 [G, K, 3] (x, y, visibility; continuous like boxes, so that the middle of the first
    pixel is 0.5; visibility 0 not labelled, 1 hidden, 2 visible), annotated_box float32 [G, 4] (as an annotator drew
    it, by which COCO measures boxes), annotator int32 [G], predicted_iou float32 [G], stability float32 [G]

Where not every class was looked for in every picture (LVIS): neg_categories int32 [n], of which the picture has none
for sure, and not_exhaustive_categories int32 [n], of which not every object is listed.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from segjax.masks import RecordError, check_run_lengths, parse_run_lengths

Record = dict[str, Any]

OBJECT_FIELDS = {
    "id": (np.int64, ()),
    "box": (np.float32, (4,)),
    "category": (np.int32, ()),
    "crowd": (np.bool_, ()),
    "area": (np.float32, ()),
}
OPTIONAL_OBJECT_FIELDS = {
    "keypoints": (np.float32, (None, 3)),
    "annotated_box": (np.float32, (4,)),
    "annotator": (np.int32, ()),
    "predicted_iou": (np.float32, ()),
    "stability": (np.float32, ()),
}
OPTIONAL_CLASS_LISTS = ("neg_categories", "not_exhaustive_categories")


def stack_objects(
    rows: Sequence[Mapping[str, Any]], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """The `objects` of a record from one dict per object, with the schema's fields and those of `optional`.

    Optional fields of the whole record are passed over.
    """
    objects: dict[str, Any] = {}
    fields = {name: kind for name, kind in OPTIONAL_OBJECT_FIELDS.items() if name in optional}
    for name, (dtype, shape) in (OBJECT_FIELDS | fields).items():
        # A picture without objects still has rows of the right width (keypoints: of none, their number is unknown).
        objects[name] = np.array([row[name] for row in rows], dtype).reshape(
            len(rows), *_concrete(shape, rows, name)
        )
    objects["rle"] = [row["rle"] for row in rows]
    return objects


def _concrete(shape: tuple, rows: Sequence[Mapping[str, Any]], name: str) -> tuple[int, ...]:
    return tuple(
        size if size is not None else (len(rows[0][name]) if rows else 0) for size in shape
    )


_NONE = stack_objects([])


def make_empty_objects() -> dict[str, Any]:
    """The `objects` of a picture without any; its arrays, of no rows, are shared."""
    return _NONE | {"rle": []}


def validate_record(record: Mapping[str, Any]) -> None:
    """Raises RecordError, naming image id, field, what was found and what was expected, if the schema is broken.

    Checks names, types, shapes, boxes and run lengths, and the picture's header; does not decode the pixels.
    """
    where = f"record {record.get('image_id', '<no image_id>')!r}"
    for name in ("image", "image_id", "height", "width", "objects"):
        if name not in record:
            raise RecordError(where, name, "missing", "a field that every record has")
    if not isinstance(record["image_id"], str) or not record["image_id"]:
        raise RecordError(where, "image_id", repr(record["image_id"]), "a non-empty str")
    height, width = record["height"], record["width"]
    for name, value in (("height", height), ("width", width)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise RecordError(where, name, repr(value), "an int of at least 1")
    found = read_image_size(record["image"], where)
    if found != (height, width):
        raise RecordError(
            where,
            "image",
            f"{found[0]} x {found[1]} pixels",
            f"height x width = {height} x {width}",
        )
    _validate_objects(record["objects"], height, width, where)


def read_image_size(image: bytes | np.ndarray, where: str) -> tuple[int, int]:
    """(height, width) from the array or from the encoded bytes' header. Raises RecordError for anything else."""
    expected = "PNG or JPEG bytes, or a uint8 array [H, W, 3]"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise RecordError(where, "image", f"an array {image.dtype} {image.shape}", expected)
        return image.shape[:2]
    if not isinstance(image, bytes):
        raise RecordError(where, "image", type(image).__name__, expected)
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return opened.height, opened.width
    except Exception as error:  # Pillow raises OSError, SyntaxError and others for broken headers.
        raise RecordError(
            where, "image", f"{len(image)} bytes that Pillow cannot open ({error})", expected
        ) from error


def _validate_objects(objects: Mapping[str, Any], height: int, width: int, where: str) -> None:
    known = OBJECT_FIELDS | OPTIONAL_OBJECT_FIELDS
    for name in [*OBJECT_FIELDS, "rle"]:
        if name not in objects:
            raise RecordError(where, f"objects.{name}", "missing", "a field that every record has")
    for name in objects:
        if name not in known and name != "rle":
            raise RecordError(
                where, f"objects.{name}", "an unknown field", f"one of {sorted([*known, 'rle'])}"
            )
    count = len(objects["rle"])
    for name in known.keys() & objects.keys():
        dtype, shape = known[name]
        value = objects[name]
        expected = (
            f"{np.dtype(dtype)} {[count, *('K' if size is None else size for size in shape)]}"
        )
        if not isinstance(value, np.ndarray):
            raise RecordError(
                where, f"objects.{name}", type(value).__name__, f"a NumPy array {expected}"
            )
        fits = value.ndim == 1 + len(shape) and len(value) == count
        fits = fits and all(
            want in (None, got) for want, got in zip(shape, value.shape[1:], strict=True)
        )
        if value.dtype != dtype or not fits:
            raise RecordError(
                where, f"objects.{name}", f"{value.dtype} {list(value.shape)}", expected
            )
    for index in range(count):
        row = f"{where}, object {int(objects['id'][index])}"
        check_box(objects["box"][index], height, width, row)
        rle = objects["rle"][index]
        if not isinstance(rle, str):
            raise RecordError(row, "rle", type(rle).__name__, "a str")
        runs = parse_run_lengths(rle)
        check_run_lengths(runs, height, width, row)
        if not runs[1::2].any():
            raise RecordError(row, "rle", "an empty mask", "a mask of at least one pixel")


def check_box(box: np.ndarray, height: int, width: int, where: str) -> None:
    """Raises RecordError unless box [4] is finite, x1 < x2, y1 < y2, and inside the image of height x width px."""
    box = np.asarray(box)
    if not np.all(np.isfinite(box)) or not (box[0] < box[2] and box[1] < box[3]):
        raise RecordError(
            where, "box", f"{box.tolist()}", "finite x1 y1 x2 y2 with x1 < x2 and y1 < y2"
        )
    if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height:
        raise RecordError(
            where,
            "box",
            f"{box.tolist()} in an image of {height} x {width}",
            "a box inside the image",
        )
