"""Images of the folder that is annotated: listed by id, read upright, and added from the page."""

import dataclasses
import hashlib
import pathlib
import re
from typing import Any

import numpy as np

from segjax.files import write_atomic
from segjax.images.decoding import decode_image
from segjax.images.opening import is_tiff, open_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
MAX_BYTES = 64 * 2**20  # of an uploaded file
MAX_PIXELS = 50_000_000


@dataclasses.dataclass(frozen=True)
class ImageEntry:
    """An image of the folder.

    Attributes:
      id: of the image in addresses. Names of files never occur there.
      name: name of the file.
    """

    id: str
    name: str


class ImageFolder:
    """Images directly in a folder.

    Args:
      folder: the folder. It is made if it does not exist.

    Raises:
      NotADirectoryError: the path is a file.
    """

    def __init__(self, folder: str | pathlib.Path) -> None:
        self.folder = pathlib.Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file; expected a folder of images")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._found: dict[str, ImageEntry] = {}

    def list_entries(self) -> list[ImageEntry]:
        """Returns the images, sorted by name. The folder is read anew each time."""
        files = sorted(
            path.name
            for path in self.folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        return [ImageEntry(hashlib.sha256(name.encode()).hexdigest()[:16], name) for name in files]

    def find(self, id: str) -> ImageEntry:
        """Returns the image of an id.

        Raises:
          KeyError: there is none (any more).
        """
        # Every prompt asks, so the folder is listed again only for an image that is not known
        known = self._found.get(id)
        if known is None or not (self.folder / known.name).is_file():
            self._found = {entry.id: entry for entry in self.list_entries()}
        if id in self._found:
            return self._found[id]
        raise KeyError("no such image; it may have been removed from the folder")

    def read(self, entry: ImageEntry, notes: list[Any]) -> np.ndarray:
        """Reads an image upright, uint8 [H, W, 3].

        Args:
          entry: the image.
          notes: receives what is not shown as it is stored, see `decode_image`.

        Raises:
          KeyError: the file is gone.
          ImageError: it cannot be decoded, or has too many pixels.
        """
        try:
            data = (self.folder / entry.name).read_bytes()
        except FileNotFoundError:
            raise KeyError(f"{entry.name} was removed from the folder") from None
        check_pixels(data, entry.name)
        return decode_image(data, name=entry.name, upright=True, notes=notes)

    def add(self, name: str, data: bytes) -> ImageEntry:
        """Adds an uploaded image. It is decoded first, and a taken name gets a number.

        Args:
          name: name of the file on the user's machine. Folders in it are ignored.
          data: its content.

        Raises:
          ImageError: the data are no image, or one of too many pixels.
          ValueError: too many bytes, or a suffix that is not an image's.
        """
        if len(data) > MAX_BYTES:
            raise ValueError(f"the file has {len(data):,} bytes; at most {MAX_BYTES:,} are taken")
        plain = re.split(r"[/\\]", name)[-1]
        stem, suffix = pathlib.PurePath(plain).stem, pathlib.PurePath(plain).suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"{plain[:80]!r} is no image; expected one of {', '.join(SUFFIXES)}")
        stem = re.sub(r"[^\w.-]+", "_", stem).strip("._")[:80] or "image"
        check_pixels(data, plain[:80])
        decode_image(data, name=plain[:80], upright=True, notes=[])
        number, target = 1, f"{stem}{suffix}"
        while (self.folder / target).exists():
            number += 1
            target = f"{stem}_{number}{suffix}"
        write_atomic(self.folder / target, data)
        return self.find(hashlib.sha256(target.encode()).hexdigest()[:16])


def check_pixels(data: bytes, name: str) -> None:
    """Raises ValueError for an image of too many pixels, before they are decoded."""
    if is_tiff(data):
        return  # decode_image has a limit of its own
    with open_image(data, name) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"{name} has {image.height} x {image.width} pixels; at most {MAX_PIXELS:,} are "
                "taken: make it smaller"
            )
