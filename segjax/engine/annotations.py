"""Committed objects of a folder: one JSON file per image, written whole, with the whole history."""

import contextlib
import fcntl
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from segjax.files import read_json_object, write_json
from segjax.masks import compute_mask_box, encode_mask

FOLDER = "masks"


class ConflictError(ValueError):
    """A commit that is based on an older version of the file."""


class AnnotationStore:
    """Objects of the images of a folder, in FOLDER/masks/NAME.json.

    A file holds every object that was ever committed. An edit is a new object with the id of the
    old one as "parent"; a removed object is an edit with "deleted". The current objects are those
    that are no object's parent. Several servers may share the folder.

    Args:
      folder: folder of the images.
    """

    def __init__(self, folder: str | pathlib.Path) -> None:
        self.folder = pathlib.Path(folder) / FOLDER

    def read(self, name: str) -> dict[str, Any]:
        """Returns the file of an image: "version", "done" and "objects". Empty without a file.

        Raises:
          ValueError: the file is damaged.
        """
        path = self._path(name)
        empty = {"image": name, "version": 0, "done": False, "objects": []}
        if not path.exists():
            return empty
        remedy = "restore it, or move it away to start anew"
        return empty | read_json_object(path, remedy)

    def commit(
        self,
        name: str,
        mask: np.ndarray | None,
        about: Mapping[str, Any],
        *,
        parent: str | None = None,
        version: int | None = None,
    ) -> dict[str, Any]:
        """Adds an object, an edit, or a removal (without a mask), and returns the file's content.

        Args:
          name: name of the image.
          mask: bool [H, W], or None to remove `parent`.
          about: "class", "steps", "predicted_iou", "seconds", "annotator", "model", "stage".
          parent: id of the object that this one replaces.
          version: version that the page has seen. None: any.

        Raises:
          ConflictError: another commit came first.
          ValueError: an empty mask, a parent that is not current, or nothing to commit.
          OSError: the file cannot be written; nothing has changed.
        """
        if mask is None and parent is None:
            raise ValueError("nothing to commit; expected a mask, or an object to remove")
        if mask is not None and not mask.any():
            raise ValueError("the mask is empty; segment an object first")
        with self._locked():
            content = self.read(name)
            self._check_version(name, content, version)
            current = {row["id"] for row in select_current(content)}
            if parent is not None and parent not in current:
                raise ConflictError("this object was changed or removed meanwhile; reload the page")
            row = {"id": uuid.uuid4().hex[:12], "parent": parent, "deleted": mask is None}
            row |= {"created": datetime.now(UTC).isoformat(timespec="seconds")} | dict(about)
            if mask is not None:
                left, top, right, bottom = (float(x) for x in compute_mask_box(mask))
                row["bbox"] = [left, top, right - left, bottom - top]
                row["area"] = int(np.count_nonzero(mask))
                row["segmentation"] = {"size": list(mask.shape), "counts": encode_mask(mask)}
            content["objects"] = [*content["objects"], row]
            return self._write(name, content)

    def set_done(self, name: str, done: bool, *, version: int | None = None) -> dict[str, Any]:
        """Marks an image as done or not, and returns the file's content."""
        with self._locked():
            content = self.read(name)
            self._check_version(name, content, version)
            content["done"] = done
            return self._write(name, content)

    def _check_version(self, name: str, content: Mapping, version: int | None) -> None:
        if version is not None and version != content["version"]:
            raise ConflictError(
                f"{name} was changed by another person (version {content['version']}, the page has "
                f"{version}); the page shows the newest objects now, commit again"
            )

    def _write(self, name: str, content: dict[str, Any]) -> dict[str, Any]:
        content["version"] += 1
        write_json(self._path(name), content, indent=0)
        return content

    def _path(self, name: str) -> pathlib.Path:
        return self.folder / f"{name}.json"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the folder's lock, so that no two processes write at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def select_current(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the objects of a file that no later one replaced or removed."""
    replaced = {row["parent"] for row in content["objects"]}
    return [row for row in content["objects"] if row["id"] not in replaced and not row["deleted"]]
