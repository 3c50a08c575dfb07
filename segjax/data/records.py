"""The record schema: one image and the masks of its objects, from any dataset.

A record is a dict. Pixels are those of the stored image. Boxes have continuous edges: a mask that
fills pixel columns a..b has x1 = a and x2 = b + 1. G is the number of objects, K the number of
categories.

| field | type | meaning |
|---|---|---|
| image | bytes, or uint8 [H, W, 3] | encoded PNG or JPEG, or pixels |
| image_id | str | unique in its split |
| height | int | pixels |
| width | int | pixels |
| label | int, optional | class of the whole image, 0..K-1, absent if unknown |
| stuff | uint8 [H, W], optional | class 1..S of each pixel, 0 on objects, 255 unknown |
| objects | dict | the fields below, one row per object |
| neg_categories | int32 [n], optional | categories that are surely absent (LVIS) |
| not_exhaustive_categories | int32 [n], optional | categories with unlisted objects (LVIS) |

| field of objects | type | meaning |
|---|---|---|
| id | int64 [G] | id of the object |
| box | float32 [G, 4] | x1 y1 x2 y2 in pixels |
| category | int32 [G] | 0..K-1 |
| crowd | bool [G] | region of objects that are not told apart |
| area | float32 [G] | pixels |
| rle | list of G str | mask, as a compressed COCO run-length encoding of size (height, width) |
| keypoints | float32 [G, N, 3], optional | x, y, visibility: 0 unlabeled, 1 hidden, 2 visible |
| annotated_box | float32 [G, 4], optional | box as an annotator drew it, by which COCO measures |
| annotator | int32 [G], optional | index of the annotator |
| box_only | bool [G], optional | object without a mask, whose `rle` is its filled box |
| predicted_iou | float32 [G], optional | quality, as a data engine predicted it |
| stability | float32 [G], optional | stability score of a data engine |
| phrases | array of G str, optional | texts that are true of this object alone, one per line |

Keypoints are continuous like boxes, so the middle of the first pixel is at 0.5.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.images.opening import ImageError, open_image
from segjax.masks import RecordError, check_run_lengths, parse_run_lengths

Record = dict[str, Any]

UNKNOWN_STUFF = 255  # class of stuff of pixels of which none is known

# Field of objects -> (dtype, shape of one row). None in a shape is the number of keypoints.
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
    "box_only": (np.bool_, ()),
    "predicted_iou": (np.float32, ()),
    "stability": (np.float32, ()),
    "phrases": (np.object_, ()),
}
OPTIONAL_CLASS_LISTS = ("neg_categories", "not_exhaustive_categories")


def stack_objects(
    rows: Sequence[Mapping[str, Any]], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """Stacks one dict per object into the `objects` of a record.

    Args:
      rows: fields of each object, see `segjax.data.records`.
      optional: names of optional fields to include. Those of the record itself are ignored.
    """
    objects: dict[str, Any] = {}
    fields = {name: kind for name, kind in OPTIONAL_OBJECT_FIELDS.items() if name in optional}
    for name, (dtype, shape) in (OBJECT_FIELDS | fields).items():
        # Without objects the arrays still have their columns, except for keypoints, whose number
        # is unknown then.
        keypoints = len(rows[0][name]) if rows and None in shape else 0
        columns = (keypoints if size is None else size for size in shape)
        objects[name] = np.array([row[name] for row in rows], dtype).reshape(len(rows), *columns)
    objects["rle"] = [row["rle"] for row in rows]
    return objects


_EMPTY = stack_objects([])


def has_box_only(objects: Mapping[str, Any]) -> np.ndarray:
    """Returns bool [G], True for the `objects` of a record that have a box and no mask."""
    return np.asarray(objects.get("box_only", np.zeros(len(objects["rle"]))), bool)


def make_empty_objects() -> dict[str, Any]:
    """Returns the `objects` of an image without any. The arrays are shared between calls."""
    return _EMPTY | {"rle": []}


def validate_record(record: Mapping[str, Any]) -> None:
    """Raises RecordError unless a record follows the schema.

    Checks names, types, shapes, boxes, run lengths and the header of the image. Pixels are not
    decoded. The message names the image, the field, the value and the expectation.
    """
    where = f"record {record.get('image_id', '<no image_id>')!r}"
    for name in ("image", "image_id", "height", "width", "objects"):
        if name not in record:
            raise RecordError(where, name, "missing", "a field that every record has")
    if not isinstance(record["image_id"], str) or not record["image_id"]:
        raise RecordError(where, "image_id", repr(record["image_id"]), "a non-empty str")
    # File names may hold bytes that are no text.
    if any("\ud800" <= character <= "\udfff" for character in record["image_id"]):
        raise RecordError(where, "image_id", ascii(record["image_id"]), "text that UTF-8 can hold")
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
    stuff = record.get("stuff")
    if stuff is not None and (stuff.dtype != np.uint8 or stuff.shape != (height, width)):
        found = f"{stuff.dtype} {list(stuff.shape)}"
        raise RecordError(where, "stuff", found, f"uint8 {[height, width]}")
    _validate_objects(record["objects"], height, width, where)


def read_image_size(image: bytes | np.ndarray, where: str) -> tuple[int, int]:
    """Reads the size of an image from its array or from the header of its bytes.

    Args:
      image: encoded bytes, or uint8 [H, W, 3].
      where: name of the record in error messages.

    Returns:
      (height, width) in pixels.

    Raises:
      RecordError: neither bytes nor such an array, or bytes that cannot be opened.
    """
    expected = "PNG or JPEG bytes, or a uint8 array [H, W, 3]"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise RecordError(where, "image", f"an array {image.dtype} {image.shape}", expected)
        return image.shape[:2]
    if not isinstance(image, bytes):
        raise RecordError(where, "image", type(image).__name__, expected)
    try:
        with open_image(image, where) as opened:
            return opened.height, opened.width
    except ImageError as error:
        found = f"{len(image)} bytes that cannot be opened ({error})"
        raise RecordError(where, "image", found, expected) from error


def _validate_objects(objects: Mapping[str, Any], height: int, width: int, where: str) -> None:
    """Raises RecordError unless the `objects` of a record follow the schema."""
    known = OBJECT_FIELDS | OPTIONAL_OBJECT_FIELDS
    # Names
    for name in [*OBJECT_FIELDS, "rle"]:
        if name not in objects:
            raise RecordError(where, f"objects.{name}", "missing", "a field that every record has")
    for name in objects:
        if name not in known and name != "rle":
            raise RecordError(
                where, f"objects.{name}", "an unknown field", f"one of {sorted([*known, 'rle'])}"
            )
    # Types and shapes
    count = len(objects["rle"])
    for name in known.keys() & objects.keys():
        _validate_array(objects[name], name, count, where)
    for text in objects.get("phrases", ()):
        if not isinstance(text, str):
            raise RecordError(where, "objects.phrases", type(text).__name__, "a str")
    # Boxes and masks
    for index in range(count):
        row = f"{where}, object {int(objects['id'][index])}"
        check_box(objects["box"][index], height, width, row)
        rle = objects["rle"][index]
        if not isinstance(rle, str):
            raise RecordError(row, "rle", type(rle).__name__, "a str")
        runs = parse_run_lengths(rle, row)
        check_run_lengths(runs, height, width, row)
        if not runs[1::2].any():
            raise RecordError(row, "rle", "an empty mask", "a mask of at least one pixel")


def check_categories(record: Mapping[str, Any], count: int) -> None:
    """Raises RecordError unless the categories and the label of a record are in 0..count - 1."""
    labels = [record["label"]] if "label" in record else []
    found = record["objects"]["category"].tolist() + labels
    for category in found:
        if not 0 <= category < count:
            where = f"record {record['image_id']!r}"
            raise RecordError(where, "category", str(category), f"0 .. {count - 1}")


def _validate_array(value: Any, name: str, count: int, where: str) -> None:
    """Raises RecordError unless a field of objects has the dtype and shape of the schema."""
    dtype, shape = (OBJECT_FIELDS | OPTIONAL_OBJECT_FIELDS)[name]
    columns = ["K" if size is None else size for size in shape]
    expected = f"{np.dtype(dtype)} {[count, *columns]}"
    if not isinstance(value, np.ndarray):
        raise RecordError(
            where, f"objects.{name}", type(value).__name__, f"a NumPy array {expected}"
        )
    fits = value.ndim == 1 + len(shape) and len(value) == count
    fits = fits and all(
        want in (None, got) for want, got in zip(shape, value.shape[1:], strict=True)
    )
    if value.dtype != dtype or not fits:
        raise RecordError(where, f"objects.{name}", f"{value.dtype} {list(value.shape)}", expected)


def check_box(box: np.ndarray, height: int, width: int, where: str) -> None:
    """Raises RecordError unless a box is finite, not empty, and inside the image.

    Args:
      box: [4], x1 y1 x2 y2 in pixels.
      height: of the image, in pixels.
      width: of the image, in pixels.
      where: name of the object in error messages.
    """
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
