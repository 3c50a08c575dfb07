"""Folders of images without objects, for pretraining and classification.

  <raw>/<split>/<class>/*.jpg    ImageNet's layout
  <raw>/<split>/*.jpg
  <raw>/<class>/*.jpg
  <raw>/*.jpg

The label of an image is the index of its class folder, by name, over all splits. A folder is a
split if train, val or test is a word of its name. Without split folders, or with a training split
alone, the images are divided into "train" and "val" (see `held_out`).
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
    require_folder,
    split_sort_key,
    to_split_name,
)
from segjax.data.sources.read_files import list_images, read_image
from segjax.data.threads import map_in_order

# Matches train, val2017, stage1_train and validation, but not contrail
_SPLIT = re.compile(r"(?<![a-z])(train|val|test)")
# Share of the images that are held out by default
HELD_OUT = 0.02


class ImageFolders:
    """Reader of folders of images. The id of an image is its path inside the folder of the split.

    Args:
      raw_dir: folder of the raw files.
      held_out: share of a lone training split that becomes "val". The images whose ids have the
        smallest CRC-32 are chosen. The choice is therefore the same each time, and mostly the
        same after images are added. 0: no "val". None: 0.02, or 0 if there is an evaluation split.
      bands: channel numbers from 1 to read, such as (3, 2, 1), for images with more than three.

    Raises:
      FileNotFoundError: there are no images.
      ValueError: images lie on several levels, are too few to divide, or are divided already.
    """

    category_ids: tuple[int, ...]
    keypoints = 0
    has_objects = False

    def __init__(
        self,
        raw_dir: str | pathlib.Path,
        *,
        held_out: float | None = None,
        bands: Sequence[int] | None = None,
    ):
        self.bands = bands
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        share = HELD_OUT if held_out is None else held_out
        if not 0 <= share < 1:
            raise ValueError(
                f"held_out is the share of images to evaluate on, in 0 .. 1, got {held_out}"
            )
        folders = _find_split_folders(self.raw_dir)
        by_class = {split: _list_classes(folder) for split, folder in folders.items()}
        names = sorted({name for classes in by_class.values() for name in classes if name})
        # Labels: the class folders of all splits, by name
        self.categories, self.category_ids = tuple(names), tuple(range(len(names)))
        self.optional = ("label",) if names else ()
        self._images = {split: _flatten(classes) for split, classes in by_class.items()}
        # A training split alone is divided.
        if share and len(folders) == 1 and not _is_evaluation_split(*folders):
            self._images = _divide(*self._images.values(), share, self.raw_dir)
        elif held_out:
            raise ValueError(
                f"{self.raw_dir} has the splits {', '.join(folders)}, and held_out divides a "
                "training split alone; leave held_out out"
            )
        self.splits = tuple(self._images)

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Yields the records of a split, by class and file name, see `RawSource.records`.

        Images with an EXIF orientation are rotated upright and encoded again.
        """
        check_split(split, self.splits, self.raw_dir)
        label_of = {name: label for label, name in enumerate(self.categories)}
        images = self._images[split]
        results = map_in_order(self._try_read, images.values())
        for image_id, (result, counts) in zip(images, results, strict=True):
            skipped.merge(counts)
            if isinstance(result, UnusableError):
                skipped.add_image(result.reason, str(result))
                continue
            image, height, width = result
            record = {
                "image": image,
                "image_id": image_id,
                "height": height,
                "width": width,
                "objects": make_empty_objects(),
            }
            name = image_id.rpartition("/")[0]
            yield record | ({"label": label_of[name]} if name else {})

    def _try_read(
        self, path: pathlib.Path
    ) -> tuple[tuple[bytes, int, int] | UnusableError, SkipCounts]:
        """Reads an image and counts what was changed.

        Returns the error instead of raising it, because it runs in a thread.
        """
        counts = SkipCounts()
        try:
            return read_image(path, upright=True, bands=self.bands, counts=counts), counts
        except UnusableError as error:
            return error, counts


def _find_split_folders(raw_dir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Maps splits to their folders. Without split folders there is only "train"."""
    folders = [path for path in raw_dir.iterdir() if path.is_dir()]
    named = sorted(
        (path for path in folders if _SPLIT.search(path.name.lower())),
        key=lambda path: split_sort_key(path.name),
    )
    if not named:
        return {"train": raw_dir}
    if list_images(raw_dir):
        raise ValueError(
            f"{raw_dir} holds images and the splits {', '.join(path.name for path in named)}; "
            "move the images into one of the splits, or elsewhere"
        )
    return {to_split_name(path.name): path for path in named}


def _list_classes(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Maps classes to their sorted images. "" is the class of images without a class folder."""
    found = {path.name: list_images(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    found = {name: images for name, images in found.items() if images}
    if loose := list_images(folder):
        if found:
            raise ValueError(
                f"{folder} holds images ({loose[0].name}, ...) and folders of images "
                f"({next(iter(found))}, ...); either all images lie in class folders, or none"
            )
        return {"": loose}
    if not found:
        raise FileNotFoundError(
            f"no images under {folder}: expected [<split>/][<class>/]*.jpg; it holds "
            f"{sorted(path.name for path in folder.iterdir())[:5]}"
        )
    return found


def _flatten(classes: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, pathlib.Path]:
    """Maps image ids to files."""
    return {
        f"{name}/{path.name}".lstrip("/"): path for name, paths in classes.items() for path in paths
    }


def _is_evaluation_split(split: str) -> bool:
    return "train" not in split


def _divide(
    images: Mapping[str, pathlib.Path], share: float, where: pathlib.Path
) -> dict[str, dict]:
    """Divides images into "train" and "val" by the CRC-32 of their ids."""
    if len(images) < 2:
        raise ValueError(
            f"{where} has one image, and evaluation needs one too; --option held_out=0 uses all "
            "of them for training"
        )
    # CRC-32 is the same on every machine and in every run, unlike Python's hash.
    by_hash = sorted(images, key=lambda image_id: zlib.crc32(image_id.encode()))
    held = set(by_hash[: max(1, round(share * len(images)))])
    return {
        "train": {image_id: path for image_id, path in images.items() if image_id not in held},
        "val": {image_id: path for image_id, path in images.items() if image_id in held},
    }
