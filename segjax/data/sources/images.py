"""Folders of pictures without objects, for models that learn from pictures alone; ImageNet's layout is one of them.

  <raw>/<split>/<class>/*.jpg    a picture's label is the index of its class's folder, by name, over all splits
  <raw>/<split>/*.jpg
  <raw>/<class>/*.jpg            if no folder is named for a split: train, val or test is a word of its name
  <raw>/*.jpg

Whatever comes without splits, or in a training split alone, is divided into "train" and "val", see `held_out`.
"""

import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence

from segjax.data.records import Record, make_empty_objects
from segjax.data.sources.raw import (
    SkipCounts,
    UnusableError,
    check_split,
    list_images,
    read_image,
    require_folder,
    split_sort_key,
    to_split_name,
)
from segjax.data.threads import map_in_order

_SPLIT = re.compile(
    r"(?<![a-z])(train|val|test)"
)  # train, val2017, stage1_train, validation; not "contrail"


class ImageFolders:
    """Raw source of folders of pictures. Image ids are paths inside the split's folder.

    Args:
      held_out: share of the pictures of a folder without an evaluation split that become "val": those whose ids have
        the smallest CRC-32. So it is the same pictures every time, and of more pictures mostly the same. 0: none.

    Raises:
      FileNotFoundError: there are no pictures. ValueError: they lie on several levels at once, or too few to divide.
    """

    category_ids: tuple[int, ...]
    keypoints = 0
    has_objects = False

    def __init__(self, raw_dir: str | pathlib.Path, *, held_out: float = 0.02):
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        if not 0 <= held_out < 1:
            raise ValueError(
                f"held_out is the share of pictures to evaluate on, in 0 .. 1, got {held_out}"
            )
        folders = _split_folders(self.raw_dir)
        by_class = {split: _classes(folder) for split, folder in folders.items()}
        names = sorted({name for classes in by_class.values() for name in classes if name})
        self.categories, self.category_ids = tuple(names), tuple(range(len(names)))
        self.optional = ("label",) if names else ()
        self._pictures = {split: _listed(classes) for split, classes in by_class.items()}
        if held_out and len(folders) == 1 and not _is_measured_on(*folders):
            self._pictures = _divided(*self._pictures.values(), held_out, self.raw_dir)
        self.splits = tuple(self._pictures)

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Records of a split, by class and file name. Broken pictures are skipped and counted.

        Pictures that say, in EXIF, that they lie on their side are turned upright and encoded anew.
        """
        check_split(split, self.splits, self.raw_dir)
        label_of = {name: label for label, name in enumerate(self.categories)}
        pictures = self._pictures[split]
        for image_id, read in zip(pictures, map_in_order(_read, pictures.values()), strict=True):
            if isinstance(read, UnusableError):
                skipped.add_image(read.reason, str(read))
                continue
            image, height, width = read
            record = {
                "image": image,
                "image_id": image_id,
                "height": height,
                "width": width,
                "objects": make_empty_objects(),
            }
            name = image_id.rpartition("/")[0]
            yield record | ({"label": label_of[name]} if name else {})


def _read(path: pathlib.Path) -> tuple[bytes, int, int] | UnusableError:
    try:
        return read_image(path, upright=True)
    except UnusableError as error:
        return error


def _split_folders(raw_dir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Split -> folder; without splits the one is "train". Each has pictures in it or in its own folders."""
    folders = [path for path in raw_dir.iterdir() if path.is_dir()]
    named = sorted(
        (path for path in folders if _SPLIT.search(path.name.lower())),
        key=lambda path: split_sort_key(path.name),
    )
    if not named:
        return {"train": raw_dir}
    if list_images(raw_dir):
        raise ValueError(
            f"{raw_dir} holds pictures and the splits {', '.join(path.name for path in named)} too; "
            "move the pictures into the split that they belong to, or elsewhere"
        )
    return {to_split_name(path.name): path for path in named}


def _classes(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Class -> its pictures, sorted; the class of pictures right in the folder is "". Raises as `ImageFolders`."""
    found = {path.name: list_images(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    found = {name: pictures for name, pictures in found.items() if pictures}
    if loose := list_images(folder):
        if found:
            raise ValueError(
                f"{folder} holds pictures ({loose[0].name}, ...) and folders of pictures ({next(iter(found))}, ...) "
                "too; either all of its pictures have a class's folder, or none"
            )
        return {"": loose}
    if not found:
        raise FileNotFoundError(
            f"no pictures under {folder}: expected [<split>/][<class>/]*.jpg; it holds "
            f"{sorted(path.name for path in folder.iterdir())[:5]}"
        )
    return found


def _listed(classes: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, pathlib.Path]:
    return {
        f"{name}/{path.name}".lstrip("/"): path for name, paths in classes.items() for path in paths
    }


def _is_measured_on(split: str) -> bool:
    return "train" not in split


def _divided(
    pictures: Mapping[str, pathlib.Path], share: float, where: pathlib.Path
) -> dict[str, dict]:
    if len(pictures) < 2:
        raise ValueError(
            f"{where} has one picture, and evaluation needs one too; --option held_out=0 holds none out"
        )
    by_hash = sorted(pictures, key=lambda image_id: zlib.crc32(image_id.encode()))
    held = set(by_hash[: max(1, round(share * len(pictures)))])
    return {
        "train": {image_id: path for image_id, path in pictures.items() if image_id not in held},
        "val": {image_id: path for image_id, path in pictures.items() if image_id in held},
    }
