"""Prepared data on disk: written by one TFDS writer as ArrayRecord, read back by random access.

TensorFlow is neither needed nor imported: images travel as encoded bytes, masks as text.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tensorflow_datasets.core.utils import tqdm_utils

from segjax.data.records import (
    OBJECT_FIELDS,
    OPTIONAL_CLASS_LISTS,
    OPTIONAL_OBJECT_FIELDS,
    Record,
    make_empty_objects,
)

INFO_FILE = "info.json"
UNKNOWN_LABEL = -1  # how a record without a label is written beside others that have one, as ImageNet's test split is
SHARD = 10_000  # examples in a file: of photographs, half a gigabyte or so
_AT_ONCE = 64  # examples between two updates of the metadata
NUMPY_OF = OBJECT_FIELDS | OPTIONAL_OBJECT_FIELDS
_OPENING = threading.Lock()  # grain reads with many threads; one of them opens the files.


@dataclasses.dataclass(frozen=True)
class PreparedInfo:
    """What a prepared folder holds.

    `category_ids` are the raw files' own ids of the classes 0..K-1, `frequencies` how common each is where the raw
    files say it (LVIS: "r", "c" or "f"), `keypoint_names` the names of the `keypoints` of an object.
    """

    source: str
    splits: Mapping[str, Mapping[str, int]]  # split -> {"images": n, "objects": n}
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    optional: tuple[str, ...] = ()
    keypoints: int = 0
    keypoint_names: tuple[str, ...] = ()
    frequencies: tuple[str, ...] = ()


def _features(
    optional: Sequence[str], keypoints: int, has_objects: bool
) -> tfds.features.FeaturesDict:
    objects = {"rle": tfds.features.Text()}
    for name in [*OBJECT_FIELDS, *(name for name in optional if name in OPTIONAL_OBJECT_FIELDS)]:
        dtype, shape = NUMPY_OF[name]
        shape = tuple(keypoints if size is None else size for size in shape)
        objects[name] = (
            tfds.features.Tensor(shape=shape, dtype=dtype) if shape else tfds.features.Scalar(dtype)
        )
    fields = {
        "image": tfds.features.Image(),
        "image_id": tfds.features.Text(),
        "height": tfds.features.Scalar(np.int32),
        "width": tfds.features.Scalar(np.int32),
    }
    if has_objects:
        fields["objects"] = tfds.features.Sequence(objects)
    fields |= {
        name: tfds.features.Sequence(np.int32) for name in OPTIONAL_CLASS_LISTS if name in optional
    }
    if "label" in optional:
        fields["label"] = tfds.features.Scalar(np.int32)
    return tfds.features.FeaturesDict(fields)


@contextlib.contextmanager
def silence_tfds() -> Iterator[None]:
    """TFDS shows progress bars and log lines of its own; the command line reports for it."""
    bars, verbosity = tqdm_utils._active, absl_logging.get_verbosity()
    tfds.display_progress_bar(False)
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        tfds.display_progress_bar(bars)
        absl_logging.set_verbosity(verbosity)


def write_records(
    folder: pathlib.Path,
    splits: Mapping[str, Callable[[], Iterator[Record]]],
    *,
    optional: Sequence[str] = (),
    keypoints: int = 0,
    has_objects: bool = True,
) -> None:
    """Writes ArrayRecord files and TFDS metadata into `folder`, in order. Images must be encoded bytes.

    has_objects: without, there is no room for any, and reading a record takes half as long.
    """
    features = _features(optional, keypoints, has_objects)
    unknown = {"label": UNKNOWN_LABEL} if "label" in optional else {}
    kept = lambda record: {
        name: value for name, value in record.items() if has_objects or name != "objects"
    }
    as_file = lambda record: unknown | kept(record) | {"image": io.BytesIO(record["image"])}
    write_examples(
        folder,
        "segjax_records",
        features,
        {name: map(as_file, make()) for name, make in splits.items()},
    )


def write_examples(
    folder: pathlib.Path,
    name: str,
    features: tfds.features.FeaturesDict,
    splits: Mapping[str, Iterable[Mapping]],
) -> None:
    """Writes a TFDS data set as ArrayRecord straight into `folder`, which `tfds.builder_from_directory` reads.

    One example after another goes to disk. A TFDS builder would collect them all first, to shuffle them, in memory or,
    beyond 1 GB, in files that it writes with TensorFlow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=__name__
    )
    with silence_tfds():
        info = tfds.core.DatasetInfo(builder=identity, features=features, disable_shuffling=True)
        writer = tfds.core.SequentialWriter(info, SHARD, file_format="array_record")
        writer.initialize_splits(list(splits))
        try:
            for split, examples in splits.items():
                examples = iter(examples)
                while some := list(itertools.islice(examples, _AT_ONCE)):
                    writer.add_examples({split: some})
        finally:
            writer.close_all()


def write_info(folder: pathlib.Path, info: PreparedInfo) -> None:
    """Writes info.json; a folder without one is not a prepared folder."""
    (folder / INFO_FILE).write_text(json.dumps(dataclasses.asdict(info), indent=1) + "\n")


def read_info(path: str | pathlib.Path) -> PreparedInfo:
    """Facts about a prepared folder. Raises FileNotFoundError when `path` is none."""
    file = pathlib.Path(path) / INFO_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} is not prepared data: it has no {INFO_FILE}. "
            f"Make it with `segjax prepare SOURCE RAW_DIR --out {path}`"
        )
    fields = json.loads(file.read_text())
    return PreparedInfo(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
    )


def open_source(path: str | pathlib.Path, split: str) -> "RecordSource":
    """Random-access source of the records of one split of a prepared folder. It pickles, as grain's workers need.

    Raises FileNotFoundError when the folder is not prepared data, ValueError when it has no such split.
    """
    info = read_info(path)
    if split not in info.splits:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(info.splits)}")
    return RecordSource(pathlib.Path(path), split, info)


class RecordSource:
    """`source[i]` is a record (see segjax.data.records) with the image as encoded bytes.

    Args:
      path: folder of a TFDS data set in a format of random access. split: one of its splits, or a part of one as TFDS
        writes it. info: what it holds, with the number of images of `split` at least.
      read: (example, position) -> record. encoded: fields that are pictures, which reading leaves as they are stored.
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
        self._read, self._encoded = read or _from_tfds, tuple(encoded)
        self._files: Any = None

    def __len__(self) -> int:
        return self.info.splits[self.split]["images"]

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self.path}, split {self.split!r}")
        index = int(index) % len(self)
        return self._read(self._open()[index], index)

    def __repr__(self) -> str:
        return f"RecordSource({str(self.path)!r}, {self.split!r}, {len(self)} records)"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {
            "_files": None
        }  # Open files stay behind; the other process opens its own.

    def _open(self) -> Any:
        with _OPENING:
            if self._files is None:
                with silence_tfds():
                    builder = tfds.builder_from_directory(self.path)
                    decoders = {field: tfds.decode.SkipDecoding() for field in self._encoded}
                    self._files = builder.as_data_source(split=self.split, decoders=decoders)
        return self._files


def _from_tfds(example: Mapping[str, Any], position: int) -> Record:
    record = {
        "image": bytes(example["image"]),
        "image_id": example["image_id"].decode("utf-8"),
        "height": int(example["height"]),
        "width": int(example["width"]),
        "objects": _objects(example["objects"]) if "objects" in example else make_empty_objects(),
    }
    record |= {
        name: np.asarray(example[name], np.int32)
        for name in OPTIONAL_CLASS_LISTS
        if name in example
    }
    label = int(example.get("label", UNKNOWN_LABEL))
    return record | ({} if label == UNKNOWN_LABEL else {"label": label})


def _objects(raw: Mapping[str, Any]) -> dict[str, Any]:
    rle = [text.decode("ascii") for text in raw["rle"]]
    objects = {}
    for name in raw.keys() & NUMPY_OF.keys():
        dtype, shape = NUMPY_OF[name]
        value = np.asarray(raw[name], dtype)
        objects[name] = value if len(rle) else value.reshape(0, *(size or 0 for size in shape))
    return objects | {"rle": rle}
