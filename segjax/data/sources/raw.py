"""What the readers of raw files share: the account of what was skipped, and reading a picture with care."""

import dataclasses
import io
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from segjax.data.records import Record
from segjax.images.encoding import JPEG_FORMATS, SIXTEEN_BITS, encode_image
from segjax.masks import compute_mask_box, encode_mask

EXAMPLES_KEPT = 3
_ORIENTATION = 0x0112  # EXIF's tag
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class RawSource(Protocol):
    """Raw files that can be prepared.

    splits: names of the splits. categories: name of each class 0..K-1. category_ids: the raw files' own id of each.
    optional: the optional fields its records carry. keypoints: number of them per object. has_objects: whether its
    pictures have any, so that one without is of no use.
    """

    splits: tuple[str, ...]
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    optional: tuple[str, ...]
    keypoints: int
    has_objects: bool

    def records(self, split: str, skipped: "SkipCounts") -> Iterator[Record]:
        """Records of a split in a fixed order; what cannot be used is counted in `skipped`."""
        ...


@dataclasses.dataclass
class SkipCounts:
    """What a source left out: how many images and objects for which reason, with the first few named."""

    images: dict[str, int] = dataclasses.field(default_factory=dict)
    objects: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add_image(self, reason: str, detail: str) -> None:
        """Counts one image left out; `detail` names it and says what was found."""
        self._count(self.images, reason, detail)

    def add_object(self, reason: str, detail: str) -> None:
        """Counts one object left out; `detail` names it and says what was found."""
        self._count(self.objects, reason, detail)

    def merge(self, other: "SkipCounts") -> None:
        """Counts what `other` has counted, too."""
        for ours, theirs in ((self.images, other.images), (self.objects, other.objects)):
            for reason, count in theirs.items():
                ours[reason] = ours.get(reason, 0) + count
        for reason, details in other.examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + details)[:EXAMPLES_KEPT]

    def _count(self, counts: dict[str, int], reason: str, detail: str) -> None:
        counts[reason] = counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES_KEPT:
            examples.append(detail)


class UnusableError(ValueError):
    """A raw image or object that no record can be made of. `reason` is counted, the message names the thing."""

    def __init__(self, reason: str, detail: str):
        self.reason = reason
        super().__init__(f"{detail}: {reason}")


def require_folder(path: pathlib.Path, what: str) -> pathlib.Path:
    """The path, if it is a folder. Raises FileNotFoundError naming what was looked for otherwise."""
    if not path.is_dir():
        raise FileNotFoundError(f"{what} not found: {path} is not a folder")
    return path


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Picture files of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)


def read_image(path: pathlib.Path, *, upright: bool = False) -> tuple[bytes, int, int]:
    """(PNG or JPEG bytes, height, width) of a picture file; other formats are stored as PNG.

    Decodes every pixel, so that a truncated file is found now and not in the middle of a training run. `upright` turns
    a picture whose EXIF says that it lies on its side or is mirrored; no masks must refer to its pixels then.
    Raises UnusableError, with a reason that says which, for a missing, empty, truncated or foreign file.
    """
    if not path.is_file():
        raise UnusableError("image file is missing", str(path))
    return check_image_bytes(path.read_bytes(), str(path), upright=upright)


def check_image_bytes(data: bytes, path: str, *, upright: bool = False) -> tuple[bytes, int, int]:
    """`read_image` of a file that has been read; `path` names it in errors."""
    if not data:
        raise UnusableError("image has zero size", f"{path} (an empty file)")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as opened:
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns about odd metadata; pixels are what matters here.
            if 0 in opened.size:
                raise UnusableError("image has zero size", f"{path} ({opened.width} x {opened.height})")
            opened.load()
            if opened.mode.startswith(("I", "F")) and opened.mode not in SIXTEEN_BITS:
                raise UnusableError(
                    "image has more than 16 bits a channel", f"{path} (Pillow mode {opened.mode})"
                )
            turned = (
                ImageOps.exif_transpose(opened)
                if upright and opened.getexif().get(_ORIENTATION, 1) != 1
                else opened
            )
            if turned is not opened or opened.format not in ("PNG", *JPEG_FORMATS):
                data = encode_image(turned, opened.format)
            return data, turned.height, turned.width
    except UnusableError:
        raise
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, ValueError, DecompressionBombError and more.
        reason = (
            "image has zero size"
            if _png_of_zero_size(data)
            else "image is truncated or not a picture"
        )
        raise UnusableError(reason, f"{path} ({error})") from error


def _png_of_zero_size(data: bytes) -> bool:
    """True for a PNG header that declares no columns or no rows, which Pillow refuses in several ways."""
    is_png = data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24
    return is_png and 0 in (int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))


def read_label_map(path: pathlib.Path, what: str) -> np.ndarray:
    """Integer array [H, W] of a label map or mask picture, values as stored. Raises UnusableError when unreadable."""
    if not path.is_file():
        raise UnusableError(f"{what} is missing", str(path))
    try:
        with Image.open(path) as opened:
            if opened.mode in ("RGB", "RGBA", "LA", "F", "CMYK"):
                raise UnusableError(
                    f"{what} is not a single-channel picture", f"{path} (Pillow mode {opened.mode})"
                )
            return np.asarray(opened)
    except UnusableError:
        raise
    except Exception as error:
        raise UnusableError(f"{what} is truncated or not a picture", f"{path} ({error})") from error


def check_size(array: np.ndarray, height: int, width: int, what: str, path: pathlib.Path) -> None:
    """Raises UnusableError unless a map [H, W] is as large as its picture."""
    if array.shape != (height, width):
        found = " x ".join(map(str, array.shape))
        raise UnusableError(
            f"{what} is of another size than its image",
            f"{path} ({found} for an image of {height} x {width})",
        )


def build_object(
    mask: np.ndarray, identity: int, category: int = 0, **fields: Any
) -> dict[str, Any]:
    """One object's fields from its non-empty mask [H, W]: exact box, area in pixels, run lengths."""
    return {
        "id": identity,
        "box": compute_mask_box(mask),
        "category": category,
        "crowd": False,
        "area": float(np.count_nonzero(mask)),
        "rle": encode_mask(mask),
        **fields,
    }


def build_objects_from_map(labels: np.ndarray, category: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """One object per value above 0 of a label map int [H, W]; disconnected parts stay one. The id is the value."""
    labels = np.asfortranarray(
        labels
    )  # Run lengths go down the columns; turning the map once spares every mask.
    values = [int(value) for value in np.unique(labels) if value > 0]
    return [build_object(labels == value, value, category, **fields) for value in values]


def to_split_name(text: str) -> str:
    """A file's or folder's name as the name of a split: letters, digits and underscores are all that TFDS takes."""
    return re.sub(r"\W", "_", text)


def split_sort_key(name: str) -> tuple[bool, bool, str]:
    """Sorting key of split names: training splits first, then validation, then the others."""
    return "train" not in name, "val" not in name, name


def check_split(split: str, splits: Sequence[str], where: pathlib.Path | str) -> None:
    """Raises ValueError naming the splits there are, when `split` is none of them."""
    if split not in splits:
        raise ValueError(f"{where} has no split {split!r}; it has {', '.join(splits)}")
