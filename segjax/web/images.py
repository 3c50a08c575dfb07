"""Images of the folder that is annotated: listed by id, read upright, and added from the page."""

import dataclasses
import hashlib
import pathlib
import re

import numpy as np

from segjax.files import write_atomic
from segjax.images.decoding import decode_image

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

    def list(self) -> list[ImageEntry]:
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
        for entry in self.list():
            if entry.id == id:
                return entry
        raise KeyError("no such image; it may have been removed from the folder")

    def read(self, entry: ImageEntry) -> np.ndarray:
        """Reads an image upright, uint8 [H, W, 3].

        Raises:
          KeyError: the file is gone.
          ImageError: it cannot be decoded, or has too many pixels.
        """
        try:
            data = (self.folder / entry.name).read_bytes()
        except FileNotFoundError:
            raise KeyError(f"{entry.name} was removed from the folder") from None
        return decode_image(data, name=entry.name, upright=True)

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
        pixels = decode_image(data, name=plain[:80], upright=True)
        if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
            raise ValueError(
                f"the image has {pixels.shape[0]} x {pixels.shape[1]} pixels; at most "
                f"{MAX_PIXELS:,} are taken"
            )
        number, target = 1, f"{stem}{suffix}"
        while (self.folder / target).exists():
            number += 1
            target = f"{stem}_{number}{suffix}"
        write_atomic(self.folder / target, data)
        return self.find(hashlib.sha256(target.encode()).hexdigest()[:16])
