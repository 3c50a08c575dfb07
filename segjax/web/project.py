"""A folder that is annotated, with its models: what the addresses of the server do."""

import collections
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segjax.engine.annotations import AnnotationStore, ConflictError, select_current
from segjax.engine.export import make_coco, make_sa1b
from segjax.engine.images import ImageEntry, ImageFolder
from segjax.images.encoding import encode_cutout, encode_jpeg
from segjax.masks import decode_rle
from segjax.web.leases import Leases
from segjax.web.messages import MessageError, PromptMessage, parse_steps
from segjax.web.runs import decode_runs, encode_runs
from segjax.web.segmenter import PageModel

_PIXELS = 4  # decoded images in memory
_MOST_NAMES = 200


class Project:
    """Images, objects, leases and models of a folder. Methods may be called from several threads.

    Args:
      folder: folder of the images.
      model: the models.
      classes: names of classes that the page offers.
    """

    def __init__(
        self, folder: str | pathlib.Path, model: PageModel, classes: tuple[str, ...] = ()
    ) -> None:
        self.images, self.store = ImageFolder(folder), AnnotationStore(folder)
        self.model, self.classes, self.leases = model, classes, Leases()
        self._pixels: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()
        self._notes: dict[str, list[str]] = {}  # what is not shown as it is stored

    def describe(self, session: str) -> dict[str, Any]:
        """Returns the images with their state, the classes, and what the models can do.

        Args:
          session: of the page that asks.
        """
        classes, rows = dict.fromkeys(self.classes), []
        for entry in self.images.list_entries():
            content = self.store.read(entry.name)
            current = select_current(content)
            classes |= dict.fromkeys(row["class"] for row in current if row.get("class"))
            rows.append(
                {
                    "id": entry.id,
                    "name": entry.name,
                    "done": content["done"],
                    "objects": len(current),
                    "holder": self.leases.find_holder(entry.id, session),
                }
            )
        model = self.model
        return {
            "images": rows,
            "classes": list(classes),
            "texts": model.takes_text,
            "names": model.clip is not None,
            "model": model.hash,
        }

    def read_pixels(self, entry: ImageEntry) -> np.ndarray:
        """Returns an image upright, from memory if it is there. uint8 [H, W, 3]."""
        key = self._key(entry)
        # Another thread may remove the image between two looks
        pixels = self._pixels.get(key)
        if pixels is None:
            notes: list[Any] = []
            pixels = self.images.read(entry, notes)
            self._notes[entry.id] = [f"{note.reason} ({note.detail})" for note in notes]
            self._pixels[key] = pixels
            while len(self._pixels) > _PIXELS:
                self._pixels.popitem(last=False)
        return pixels

    def _key(self, entry: ImageEntry) -> str:
        """Returns a key of an image's content: another file of the same name has another one."""
        try:
            stat = (self.images.folder / entry.name).stat()
        except FileNotFoundError:
            raise KeyError(f"{entry.name} was removed from the folder") from None
        return f"{entry.id}-{stat.st_mtime_ns}-{stat.st_size}"

    def open_image(self, id: str, session: str, annotator: str) -> dict[str, Any]:
        """Embeds an image and returns its size, its objects and who else has it open.

        Raises:
          KeyError: no such image.
          ImageError: it cannot be decoded.
        """
        entry = self.images.find(id)
        height, width = self.model.embed(*self.get_source(entry))
        holder = self.leases.take(id, session, annotator)
        return self._show(entry, (height, width)) | {"holder": holder}

    def embed_next(self, id: str) -> None:
        """Embeds the image after another one, so that it opens at once."""
        entries = self.images.list_entries()
        for entry, following in zip(entries, entries[1:], strict=False):
            if entry.id == id:
                self.model.embed_ahead(functools.partial(self.read_pixels, following))

    def get_source(self, entry: ImageEntry) -> tuple[str, Callable[[], np.ndarray]]:
        """Returns the key of an image, and the function that reads it."""
        return self._key(entry), functools.partial(self.read_pixels, entry)

    def _show(self, entry: ImageEntry, hw: tuple[int, int]) -> dict[str, Any]:
        """Returns the current objects of an image, with their masks as runs."""
        content = self.store.read(entry.name)
        rows = []
        for row in select_current(content):
            mask = decode_rle(row["segmentation"], f"object {row['id']}")
            if mask.shape != tuple(hw):
                raise ValueError(
                    f"{entry.name} has {hw[0]} x {hw[1]} pixels and its stored objects "
                    f"{mask.shape[0]} x {mask.shape[1]}: the image was replaced; restore it, or "
                    "move its file in masks/ away"
                )
            rows.append(
                {"id": row["id"], "class": row.get("class") or "", "runs": encode_runs(mask)}
            )
        about = {"id": entry.id, "name": entry.name, "height": hw[0], "width": hw[1]}
        about |= {"version": content["version"], "done": content["done"], "objects": rows}
        return about | {"notes": self._notes.get(entry.id, [])}

    def encode_jpeg(self, id: str) -> bytes:
        """Returns an image as JPEG, upright."""
        return encode_jpeg(self.read_pixels(self.images.find(id)))

    def decode(self, message: PromptMessage) -> dict[str, Any]:
        """Returns the masks of a prompt as runs, with their scores."""
        entry = self.images.find(message.image)
        found = self.model.decode(*self.get_source(entry), message.steps)
        masks = found.masks
        if message.hover:  # a preview shows one mask
            masks = masks[found.best : found.best + 1]
        return {
            "image": message.image,
            "masks": [encode_runs(mask) for mask in masks],
            "scores": [round(float(score), 4) for score in found.scores],
            "best": 0 if message.hover else found.best,
        }

    def find_everything(
        self, id: str, names: list[str], advance: Callable[[int, int], None]
    ) -> list[dict[str, Any]]:
        """Returns all objects of an image as runs, with scores and, given names, names."""
        if len(names) > _MOST_NAMES:
            raise ValueError(f"{len(names)} names; at most {_MOST_NAMES} are taken")
        image = self.read_pixels(self.images.find(id))
        records = self.model.find_everything(image, advance)
        named: list[tuple[str | None, float]] = [(None, 0.0)] * len(records)
        if names and records:
            masks = [record["segmentation"] for record in records]
            named = self.model.name_masks(image, masks, names)
        return [
            {
                "runs": encode_runs(record["segmentation"]),
                "score": round(record["predicted_iou"], 4),
                "point": record["point_coords"][0],
                "name": name,
                "name_score": round(score, 4),
            }
            for record, (name, score) in zip(records, named, strict=True)
        ]

    def commit(self, id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Stores an object and returns the image's objects.

        A mask that the page did not change is computed again from its steps, so that the stored
        prompts give the stored mask.

        Args:
          id: of the image.
          body: "steps" and perhaps "runs" (a mask that was painted or came from everything),
            "class", "parent", "version", "seconds", "annotator", "session".

        Raises:
          ConflictError: another person has the image, or changed it.
          MessageError: a malformed body.
        """
        entry = self.images.find(id)
        hw = self.read_pixels(entry).shape[:2]
        about = _read_about(body)
        # The mask: computed from the steps, or as it was painted
        steps = parse_steps(body["steps"]) if body.get("steps") else ()
        score = None
        if body.get("deleted") is True:
            mask = None
        elif body.get("runs") is not None:
            mask = decode_runs(body["runs"], *hw)
        elif steps:
            found = self.model.decode(*self.get_source(entry), steps)
            mask, score = found.masks[found.best], float(found.scores[found.best])
        else:
            raise MessageError("nothing to commit; expected steps, runs or deleted")
        about |= {"steps": [step.to_json() for step in steps], "predicted_iou": score}
        about |= {"edited": body.get("runs") is not None, "model": self.model.hash}
        # Nobody else may have the image, or have changed it
        self._check_lease(id, body)
        self.store.commit(
            entry.name, mask, about, parent=body.get("parent"), version=body.get("version")
        )
        return self._show(entry, hw)

    def set_done(self, id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Marks an image as done or not, and returns its objects."""
        entry = self.images.find(id)
        self._check_lease(id, body)
        self.store.set_done(entry.name, body.get("done") is True, version=body.get("version"))
        return self._show(entry, self.read_pixels(entry).shape[:2])

    def _check_lease(self, id: str, body: Mapping[str, Any]) -> None:
        if holder := self.leases.find_holder(id, str(body.get("session", ""))):
            raise ConflictError(f"{holder} works on this image; choose another one")

    def cut_out(self, id: str, object_id: str) -> bytes:
        """Returns an object as PNG with alpha, cut to its box.

        Raises:
          KeyError: no such object.
        """
        entry = self.images.find(id)
        for row in select_current(self.store.read(entry.name)):
            if row["id"] == object_id:
                return encode_cutout(self.read_pixels(entry), decode_rle(row["segmentation"]))
        raise KeyError("no such object; it may have been changed or removed")

    def _list_files(self) -> list[tuple[str, tuple[int, int], dict[str, Any]]]:
        """Returns name, size and objects of all images."""
        files = []
        for entry in self.images.list_entries():
            content = self.store.read(entry.name)
            if not content["objects"] and not content["done"]:
                continue
            if content["objects"]:
                sizes = [r["segmentation"]["size"] for r in content["objects"] if not r["deleted"]]
                hw = tuple(sizes[0])
            else:
                hw = self.read_pixels(entry).shape[:2]
            files.append((entry.name, hw, content))
        return files

    def export_coco(self) -> dict[str, Any]:
        """Returns all committed objects in COCO's format."""
        return make_coco(self._list_files())

    def export_sa1b(self) -> bytes:
        """Returns all committed objects in SA-1B's format, a ZIP archive."""
        return make_sa1b(self._list_files())

    def get_key_digest(self, id: str) -> str:
        """Returns a short hash of an image's content, for the browser's cache."""
        return hashlib.sha256(self._key(self.images.find(id)).encode()).hexdigest()[:16]


def _read_about(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the class, the person and the time of a commit.

    Raises:
      MessageError: one of them is malformed.
    """
    about: dict[str, Any] = {"stage": "manual"}
    for key, most in (("class", 100), ("annotator", 100)):
        value = body.get(key) or ""
        if not isinstance(value, str) or len(value) > most:
            raise MessageError(f"{key} is not a text of at most {most} characters")
        about[key] = value.strip()
    seconds = body.get("seconds") or 0
    if type(seconds) not in (int, float) or not 0 <= seconds < 1e7:
        raise MessageError("seconds is not a number from 0")
    for key, kind in (("parent", str), ("version", int)):
        if body.get(key) is not None and type(body[key]) is not kind:
            raise MessageError(f"{key} is not a {kind.__name__}")
    return about | {"seconds": round(float(seconds), 1)}
