"""Prepared data on disk: ArrayRecord files with TFDS metadata, read by random access.

`segjax.data.writer` writes it, for every data source. TensorFlow is neither needed nor imported,
because images are stored as encoded bytes and masks as text.
"""

import dataclasses
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from segjax.data.metadata import (
    INFO_FILE,
    count_images,
    get_first_line,
    open_builder,
    read_info_fields,
    silence_tfds,
)
from segjax.data.records import (
    OBJECT_FIELDS,
    OPTIONAL_CLASS_LISTS,
    OPTIONAL_OBJECT_FIELDS,
    Record,
    make_empty_objects,
)
from segjax.masks import RecordError

# Stored label of a record without one, such as those of ImageNet's test split
UNKNOWN_LABEL = -1
ALL_OBJECT_FIELDS = OBJECT_FIELDS | OPTIONAL_OBJECT_FIELDS
# grain reads with many threads, and one of them opens the files.
_OPENING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class PreparedInfo:
    """Description of a prepared folder, stored as info.json.

    Attributes:
      source: name of the data source.
      splits: split -> {"images": count, "objects": count}.
      categories: names of the categories 0..K-1.
      category_ids: id of each category in the raw files.
      optional: names of the optional fields in the records.
      keypoints: number of keypoints per object.
      keypoint_names: name of each keypoint.
      frequencies: "r", "c" or "f" of each category, if the raw files say how common it is (LVIS).
    """

    source: str
    splits: Mapping[str, Mapping[str, int]]
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    optional: tuple[str, ...] = ()
    keypoints: int = 0
    keypoint_names: tuple[str, ...] = ()
    frequencies: tuple[str, ...] = ()


def read_info(path: str | pathlib.Path) -> PreparedInfo:
    """Reads the description of a prepared folder.

    Raises:
      FileNotFoundError: `path` is not a prepared folder.
      ValueError: the description is damaged.
    """
    file = pathlib.Path(path) / INFO_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} is not prepared data: it has no {INFO_FILE}. "
            f"Make it with `segjax prepare SOURCE RAW_DIR --out {path}`"
        )
    fields = read_info_fields(file)
    return PreparedInfo(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
    )


def open_source(path: str | pathlib.Path, split: str) -> "RecordSource":
    """Opens one split of a prepared folder for random access.

    Example:
      >>> source = open_source("data/coco", "val2017")
      >>> len(source), source[0]["image_id"]

    Args:
      path: prepared folder.
      split: one of its splits, or a part of one in TFDS's notation: "train[:80%]" is the first
        80 % of the images, "train[80%:]" the others.

    Returns:
      A source that can be pickled, as worker processes need.

    Raises:
      FileNotFoundError: the folder is not prepared data.
      ValueError: there is no such split, or the metadata is damaged.
    """
    path = pathlib.Path(path)
    info = read_info(path)
    hint = ", and `segjax prepare --option held_out=0.1` makes a split 'val'"
    count = count_images(open_builder(path), split, path, hint)
    if split not in info.splits:
        info = dataclasses.replace(info, splits={**info.splits, split: {"images": count}})
    if info.splits[split]["images"] != count:
        raise ValueError(
            f"{path} is damaged: split {split!r} has {count} images, and {INFO_FILE} says "
            f"{info.splits[split]['images']}; prepare the data again"
        )
    return RecordSource(path, split, info)


class RecordSource:
    """Random-access source of records. `source[i]` is one, with encoded bytes as its image.

    See `segjax.data.records` for the schema of records.

    Args:
      path: folder of a TFDS dataset in a format with random access.
      split: one of its splits, or a part of one in TFDS's notation.
      info: description of the folder, with at least the number of images of `split`.
      read: maps (example, index) to a record.
      encoded: names of the image fields, which are returned as stored bytes.
    """

    def __init__(
        self,
        path: pathlib.Path,
        split: str,
        info: PreparedInfo,
        *,
        read: Callable[[Mapping, int], Record] | None = None,
        encoded: Sequence[str] = ("image",),
    ):
        self.path, self.split, self.info = path, split, info
        self._read, self._encoded = read or _read_example, tuple(encoded)
        self._files: Any = None

    def __len__(self) -> int:
        return self.info.splits[self.split]["images"]

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self.path}, split {self.split!r}")
        index = int(index) % len(self)
        files = self._open()
        try:
            return self._read(files[index], index)
        except RecordError:
            raise
        # ArrayRecord, protocol buffers and TFDS raise many kinds of errors for damaged records.
        except Exception as error:
            raise ValueError(
                f"record {index} of {self.path}, split {self.split!r}, cannot be read: "
                f"{get_first_line(error)}"
            ) from error

    def __repr__(self) -> str:
        return f"RecordSource({str(self.path)!r}, {self.split!r}, {len(self)} records)"

    def __getstate__(self) -> dict[str, Any]:
        # Open files cannot be pickled. The other process opens its own.
        return self.__dict__ | {"_files": None}

    def _open(self) -> Any:
        with _OPENING:
            if self._files is None:
                builder = open_builder(self.path)
                decoders = {field: tfds.decode.SkipDecoding() for field in self._encoded}
                try:
                    with silence_tfds():
                        self._files = builder.as_data_source(split=self.split, decoders=decoders)
                # As for the metadata, TFDS raises many kinds of errors.
                except Exception as error:
                    raise ValueError(
                        f"split {self.split!r} of {self.path} cannot be opened: "
                        f"{get_first_line(error)}"
                    ) from error
        return self._files


def _read_example(example: Mapping[str, Any], index: int) -> Record:
    """Converts an example that `write_records` wrote to a record."""
    record = {
        "image": bytes(example["image"]),
        "image_id": example["image_id"].decode("utf-8"),
        "height": int(example["height"]),
        "width": int(example["width"]),
        "objects": _read_objects(example["objects"])
        if "objects" in example
        else make_empty_objects(),
    }
    record |= {
        name: np.asarray(example[name], np.int32)
        for name in OPTIONAL_CLASS_LISTS
        if name in example
    }
    label = int(example.get("label", UNKNOWN_LABEL))
    return record | ({} if label == UNKNOWN_LABEL else {"label": label})


def _read_objects(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the stored objects of an example to those of a record."""
    rle = [text.decode("ascii") for text in raw["rle"]]
    objects = {}
    for name in raw.keys() & ALL_OBJECT_FIELDS.keys():
        dtype, shape = ALL_OBJECT_FIELDS[name]
        if dtype is np.object_:
            texts = [text.decode("utf-8") for text in raw[name]]
            objects[name] = np.array(texts, dtype=object)
            continue
        value = np.asarray(raw[name], dtype)
        objects[name] = value if len(rle) else value.reshape(0, *(size or 0 for size in shape))
    return objects | {"rle": rle}
