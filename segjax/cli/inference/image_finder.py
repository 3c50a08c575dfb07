"""Finds the images that a JSON file names, among files and folders of the command line."""

import pathlib
from collections.abc import Sequence
from typing import Any

from segjax.messages import make_printable


class NamedImages:
    """Finds images by file name or id, among files and in folders of the command line."""

    def __init__(self, places: Sequence[str]) -> None:
        self._folders = [pathlib.Path(place) for place in places if pathlib.Path(place).is_dir()]
        files = [pathlib.Path(place) for place in places if not pathlib.Path(place).is_dir()]
        self._files = {file.name: file for file in files}
        self._stems = {file.stem: file for file in files}

    def find(self, image_id: Any, name: str | None) -> str:
        """Returns the path of an image, by its file name or else by its id."""
        if name is None:
            return str(self._find_id(image_id))
        if (base := pathlib.PurePosixPath(name.replace("\\", "/")).name) in self._files:
            return str(self._files[base])
        from segjax.data.sources.raw import UnusableError, join_inside

        try:
            for folder in self._folders:
                if (file := join_inside(folder, name)).is_file():
                    return str(file)
        except UnusableError as error:
            where = ", ".join(map(str, self._folders))[:300]
            raise ValueError(f"image {image_id!r:.100} in {where}: {error}") from error
        raise FileNotFoundError(self._describe_missing(f"image {make_printable(name, 200)}"))

    def _find_id(self, image_id: Any) -> pathlib.Path:
        """Finds 17 as 17.jpg or 000000000017.jpg, as in COCO."""
        folders = {
            file.stem: file
            for folder in self._folders
            for file in folder.iterdir()
            if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
        }
        for stem, file in {**folders, **self._stems}.items():
            if stem == str(image_id) or (stem.isdecimal() and str(int(stem)) == str(image_id)):
                return file
        missing = f"image with the id {make_printable(repr(image_id), 100)}"
        raise FileNotFoundError(self._describe_missing(missing))

    def _describe_missing(self, what: str) -> str:
        searched = [*map(str, self._folders), *self._files][:5]
        return (
            f"no {what} in {', '.join(searched) or 'the folders that were named'}; name its "
            "folder or file on the command line"
        )
