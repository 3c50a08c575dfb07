"""Prepared data on disk: written by one TFDS builder as ArrayRecord, read back by random access.

TensorFlow is neither needed nor imported: images travel as encoded bytes, masks as text.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tensorflow_datasets.core.utils import tqdm_utils

from segjax.data.records import OBJECT_FIELDS, OPTIONAL_OBJECT_FIELDS, Record

INFO_FILE = "info.json"
NUMPY_OF = OBJECT_FIELDS | OPTIONAL_OBJECT_FIELDS
_OPENING = threading.Lock()  # grain reads with many threads; one of them opens the files.


@dataclasses.dataclass(frozen=True)
class PreparedInfo:
    """What a prepared folder holds. `category_ids` are the raw files' own ids of the classes 0..K-1."""

    source: str
    splits: Mapping[str, Mapping[str, int]]  # split -> {"images": n, "objects": n}
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    optional: tuple[str, ...] = ()
    keypoints: int = 0


class SegjaxRecords(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the records of one or more splits; `splits` maps a name to what yields them in order."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look for download checksums beside this file, and for that imports importlib_resources, which
    # it does not declare as a dependency.
    code_path = None

    def __init__(
        self,
        *,
        splits: Mapping[str, Callable[[], Iterator[Record]]],
        optional: Sequence[str] = (),
        keypoints: int = 0,
        **kwargs: Any,
    ):
        self._record_splits = splits
        self._optional = tuple(optional)
        self._keypoints = keypoints
        super().__init__(file_format=tfds.core.FileFormat.ARRAY_RECORD, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # Order is kept, so that source[i] is the i-th usable raw image; the loader does the shuffling.
        features = _features(self._optional, self._keypoints)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {name: self._generate_examples(records()) for name, records in self._record_splits.items()}

    def _generate_examples(self, records: Iterator[Record]) -> Iterator[tuple[int, dict]]:
        for index, record in enumerate(records):
            yield index, record | {"image": io.BytesIO(record["image"])}


def _features(optional: Sequence[str], keypoints: int) -> tfds.features.FeaturesDict:
    objects = {"rle": tfds.features.Text()}
    for name in [*OBJECT_FIELDS, *(name for name in optional if name in OPTIONAL_OBJECT_FIELDS)]:
        dtype, shape = NUMPY_OF[name]
        shape = tuple(keypoints if size is None else size for size in shape)
        objects[name] = tfds.features.Tensor(shape=shape, dtype=dtype) if shape else tfds.features.Scalar(dtype)
    fields = {
        "image": tfds.features.Image(),
        "image_id": tfds.features.Text(),
        "height": tfds.features.Scalar(np.int32),
        "width": tfds.features.Scalar(np.int32),
        "objects": tfds.features.Sequence(objects),
    }
    if "label" in optional:
        fields["label"] = tfds.features.Scalar(np.int32)
    return tfds.features.FeaturesDict(fields)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
) -> None:
    """Writes ArrayRecord files and TFDS metadata straight into `folder`. Images must be encoded bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "tfds"
    with _quiet(), contextlib.redirect_stdout(io.StringIO()):
        builder = SegjaxRecords(data_dir=work, splits=splits, optional=optional, keypoints=keypoints)
        builder.download_and_prepare(download_dir=work / "downloads")
    for path in pathlib.Path(builder.data_dir).iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(work)


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
    lists = {name: tuple(fields[name]) for name in ("categories", "category_ids", "optional")}
    return PreparedInfo(**(fields | lists))


def open_source(path: str | pathlib.Path, split: str) -> "RecordSource":
    """Random-access source of the records of one split of a prepared folder. It pickles, as grain's workers need.

    Raises FileNotFoundError when the folder is not prepared data, ValueError when it has no such split.
    """
    info = read_info(path)
    if split not in info.splits:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(info.splits)}")
    return RecordSource(pathlib.Path(path), split, info)


class RecordSource:
    """`source[i]` is a record (see segjax.data.records) with the image as encoded bytes."""

    def __init__(self, path: pathlib.Path, split: str, info: PreparedInfo):
        self.path, self.split, self.info = path, split, info
        self._files: Any = None

    def __len__(self) -> int:
        return self.info.splits[self.split]["images"]

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in {self.path}, split {self.split!r}")
        return _from_tfds(self._open()[int(index) % len(self)])

    def __repr__(self) -> str:
        return f"RecordSource({str(self.path)!r}, {self.split!r}, {len(self)} records)"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": None}  # Open files stay behind; the other process opens its own.

    def _open(self) -> Any:
        with _OPENING:
            if self._files is None:
                with _quiet():
                    builder = tfds.builder_from_directory(self.path)
                    skip = {"image": tfds.decode.SkipDecoding()}
                    self._files = builder.as_data_source(split=self.split, decoders=skip)
        return self._files


def _from_tfds(example: Mapping[str, Any]) -> Record:
    raw = example["objects"]
    rle = [text.decode("ascii") for text in raw["rle"]]
    objects = {}
    for name in raw.keys() & NUMPY_OF.keys():
        dtype, shape = NUMPY_OF[name]
        value = np.asarray(raw[name], dtype)
        objects[name] = value if len(rle) else value.reshape(0, *(size or 0 for size in shape))
    record = {
        "image": bytes(example["image"]),
        "image_id": example["image_id"].decode("utf-8"),
        "height": int(example["height"]),
        "width": int(example["width"]),
        "objects": objects | {"rle": rle},
    }
    return record | ({"label": int(example["label"])} if "label" in example else {})
