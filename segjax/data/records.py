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
from pycocotools import mask as coco_mask

Record = dict[str, Any]
JPEG_FORMATS = ("JPEG", "MPO")  # as Pillow calls them; telephones write the second, a JPEG with others behind it
JPEG_QUALITY = 95
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of grey pictures

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


class RecordError(ValueError):
    """A record breaks the schema. `reason` is the short form, without names, that reports count."""

    def __init__(self, where: str, field: str, found: str, expected: str):
        self.reason = f"{field}: expected {expected}"
        super().__init__(f"{where}: {field} is {found}; expected {expected}")


def encode_mask(mask: np.ndarray) -> str:
    """COCO compressed run lengths of a mask [H, W] (bool, or numbers of which non-zero is inside)."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"a mask is [H, W] with H and W at least 1, got shape {mask.shape}")
    return coco_mask.encode(np.asfortranarray((mask != 0).view(np.uint8)))["counts"].decode("ascii")


def encode_part(part: np.ndarray, corner: tuple[int, int], hw: tuple[int, int]) -> str:
    """COCO compressed run lengths of a mask of which all that is inside lies in a part: the work is that of the part.

    Args:
      part: bool [h, w], at least one pixel a side. corner: (top, left) of the part, px of the mask.
      hw: (height, width) of the mask.
    """
    (top, left), (height, width) = corner, hw
    columns = np.zeros((part.shape[1], part.shape[0] + 2), bool)
    columns[:, 1:-1] = np.asarray(part, bool).T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    changes = (column + left) * height + row + top
    # Where the part fills a column to the bottom and goes on at the top of the next, nothing changes.
    seams = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, np.concatenate([seams, seams + 1]))
    runs = np.diff(changes, prepend=0, append=height * width)
    runs = runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs
    return coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)["counts"].decode()


def decode_mask(rle: str, height: int, width: int) -> np.ndarray:
    """Mask bool [height, width] of COCO compressed run lengths.

    Raises RecordError when the runs do not cover height * width pixels; pycocotools itself hands back uninitialised
    memory where they are too few.
    """
    return runs_to_mask(run_lengths(rle), height, width, "mask")


def runs_to_mask(runs: np.ndarray, height: int, width: int, where: str) -> np.ndarray:
    """Mask bool [height, width] of run lengths [n], outside first, down the columns. Raises RecordError as above."""
    check_runs(runs, height, width, where)
    inside = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, runs).reshape(width, height).T)


def run_lengths(rle: str) -> np.ndarray:
    """Run lengths int64 [n] of a compressed COCO string: outside first, then alternating, down the columns.

    The code is LEB128-like: 5 bits a character, low bits first, 0x20 marks continuation; from the fourth run
    on each number is the difference to the run two before (pycocotools, rleFrString).
    """
    codes = np.frombuffer(rle.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise RecordError("mask", "rle", f"not run lengths ({rle[:20]!r})", "a compressed COCO RLE string")
    last = (codes & 0x20) == 0
    start = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    digit = np.arange(codes.size) - np.repeat(start, np.diff(np.append(start, codes.size)))
    if digit.max() > 7:
        raise RecordError("mask", "rle", "a run length beyond 2**40", "a compressed COCO RLE string")
    numbers = np.add.reduceat((codes & 0x1F) << (5 * digit), start)
    negative = (codes[last] & 0x10) != 0
    numbers -= np.where(negative, np.int64(1) << (5 * (digit[last] + 1)), 0)
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])  # The very first run is no reference for the third.
    return runs


def check_runs(runs: np.ndarray, height: int, width: int, where: str) -> None:
    """Raises RecordError unless the run lengths are non-negative and cover height * width pixels exactly."""
    total = int(np.sum(runs))
    if total != height * width or (len(runs) and np.min(runs) < 0):
        found = f"runs of {total} pixels in all" if len(runs) == 0 or np.min(runs) >= 0 else "a negative run"
        raise RecordError(where, "rle", f"{found} for an image of {height} x {width}", "runs that fit the image")


def mask_box(mask: np.ndarray) -> np.ndarray:
    """Exact box float32 [4], x1 y1 x2 y2, of a mask [H, W] that is not empty."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 image [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def encode_picture(picture: Image.Image, kind: str | None) -> bytes:
    """Bytes of a picture that was of Pillow's format `kind`: a JPEG becomes one again, others PNG.

    A JPEG stays small that way: of a photograph with a shorter side of 256 pixels, 41 KB against a PNG's 151 KB. PNG
    keeps grey at 8 or 16 bits; palettes, alpha and the rest become RGB.
    """
    buffer = io.BytesIO()
    if kind in JPEG_FORMATS:
        picture.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        as_it_is = picture.mode == "L" or picture.mode in SIXTEEN_BITS
        (picture if as_it_is else picture.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()


def stack_objects(rows: Sequence[Mapping[str, Any]], optional: Sequence[str] = ()) -> dict[str, Any]:
    """The `objects` of a record from one dict per object, with the schema's fields and those of `optional`.

    Optional fields of the whole record are passed over.
    """
    objects: dict[str, Any] = {}
    fields = {name: kind for name, kind in OPTIONAL_OBJECT_FIELDS.items() if name in optional}
    for name, (dtype, shape) in (OBJECT_FIELDS | fields).items():
        # A picture without objects still has rows of the right width (keypoints: of none, their number is unknown).
        objects[name] = np.array([row[name] for row in rows], dtype).reshape(len(rows), *_concrete(shape, rows, name))
    objects["rle"] = [row["rle"] for row in rows]
    return objects


def _concrete(shape: tuple, rows: Sequence[Mapping[str, Any]], name: str) -> tuple[int, ...]:
    return tuple(size if size is not None else (len(rows[0][name]) if rows else 0) for size in shape)


_NONE = stack_objects([])


def no_objects() -> dict[str, Any]:
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
    found = image_size(record["image"], where)
    if found != (height, width):
        raise RecordError(where, "image", f"{found[0]} x {found[1]} pixels", f"height x width = {height} x {width}")
    _validate_objects(record["objects"], height, width, where)


def image_size(image: bytes | np.ndarray, where: str) -> tuple[int, int]:
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
        raise RecordError(where, "image", f"{len(image)} bytes that Pillow cannot open ({error})", expected) from error


def _validate_objects(objects: Mapping[str, Any], height: int, width: int, where: str) -> None:
    known = OBJECT_FIELDS | OPTIONAL_OBJECT_FIELDS
    for name in [*OBJECT_FIELDS, "rle"]:
        if name not in objects:
            raise RecordError(where, f"objects.{name}", "missing", "a field that every record has")
    for name in objects:
        if name not in known and name != "rle":
            raise RecordError(where, f"objects.{name}", "an unknown field", f"one of {sorted([*known, 'rle'])}")
    count = len(objects["rle"])
    for name in known.keys() & objects.keys():
        dtype, shape = known[name]
        value = objects[name]
        expected = f"{np.dtype(dtype)} {[count, *('K' if size is None else size for size in shape)]}"
        if not isinstance(value, np.ndarray):
            raise RecordError(where, f"objects.{name}", type(value).__name__, f"a NumPy array {expected}")
        fits = value.ndim == 1 + len(shape) and len(value) == count
        fits = fits and all(want in (None, got) for want, got in zip(shape, value.shape[1:], strict=True))
        if value.dtype != dtype or not fits:
            raise RecordError(where, f"objects.{name}", f"{value.dtype} {list(value.shape)}", expected)
    for index in range(count):
        row = f"{where}, object {int(objects['id'][index])}"
        check_box(objects["box"][index], height, width, row)
        rle = objects["rle"][index]
        if not isinstance(rle, str):
            raise RecordError(row, "rle", type(rle).__name__, "a str")
        runs = run_lengths(rle)
        check_runs(runs, height, width, row)
        if not runs[1::2].any():
            raise RecordError(row, "rle", "an empty mask", "a mask of at least one pixel")


def check_box(box: np.ndarray, height: int, width: int, where: str) -> None:
    """Raises RecordError unless box [4] is finite, x1 < x2, y1 < y2, and inside the image of height x width px."""
    box = np.asarray(box)
    if not np.all(np.isfinite(box)) or not (box[0] < box[2] and box[1] < box[3]):
        raise RecordError(where, "box", f"{box.tolist()}", "finite x1 y1 x2 y2 with x1 < x2 and y1 < y2")
    if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height:
        raise RecordError(where, "box", f"{box.tolist()} in an image of {height} x {width}", "a box inside the image")
