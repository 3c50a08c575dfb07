"""Pictures sorted into folders by what is on them, as ImageNet is.

<raw>/<split>/<class>/*.jpg     or, with one split alone, which is then called "train":
<raw>/<class>/*.jpg
"""

import pathlib
from collections.abc import Iterator

from segjax.data.records import Record, stack_objects
from segjax.data.sources.raw import (
    PICTURE_SUFFIXES,
    Skipped,
    Unusable,
    check_split,
    list_pictures,
    read_picture,
    require_folder,
    split_name,
    split_order,
)


class ClassFolders:
    """Raw source of labelled pictures without objects. Classes are numbered by their folders' names, in order."""

    optional = ("label",)
    keypoints = 0

    def __init__(self, raw_dir: str | pathlib.Path):
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        folders = sorted(_folders(self.raw_dir), key=lambda path: split_order(path.name))
        if any(map(_has_pictures, folders)):
            self._folders = {"train": self.raw_dir}
        else:
            self._folders = {split_name(path.name): path for path in folders if any(map(_has_pictures, _folders(path)))}
        if not self._folders:
            raise FileNotFoundError(
                f"no pictures in folders of classes under {raw_dir}: expected [<split>/]<class>/*.jpg; it holds "
                f"{[path.name for path in folders][:5]}"
            )
        self.splits = tuple(self._folders)
        named = {path.name for folder in self._folders.values() for path in _folders(folder)}
        self.categories = tuple(sorted(named))
        self.category_ids = tuple(range(len(self.categories)))

    def records(self, split: str, skipped: Skipped) -> Iterator[Record]:
        """Records of a split, by class and file name. Broken pictures are skipped and counted."""
        check_split(split, self.splits, self.raw_dir)
        for folder in sorted(_folders(self._folders[split])):
            label = self.categories.index(folder.name)
            for path in list_pictures(folder):
                try:
                    image, height, width = read_picture(path)
                except Unusable as error:
                    skipped.image(error.reason, str(error))
                    continue
                size = {"height": height, "width": width}
                image_id = f"{folder.name}/{path.name}"
                yield {"image": image, "image_id": image_id, "label": label, "objects": stack_objects([])} | size


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    return [child for child in path.iterdir() if child.is_dir()]


def _has_pictures(folder: pathlib.Path) -> bool:
    return any(path.suffix.lower() in PICTURE_SUFFIXES for path in folder.iterdir())
