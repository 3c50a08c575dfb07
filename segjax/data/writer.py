"""Writing prepared data: records as ArrayRecord files with TFDS metadata."""

import dataclasses
import io
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from segjax.data.metadata import INFO_FILE, silence_tfds
from segjax.data.records import (
    OBJECT_FIELDS,
    OPTIONAL_CLASS_LISTS,
    OPTIONAL_OBJECT_FIELDS,
    Record,
)
from segjax.data.storage import ALL_OBJECT_FIELDS, UNKNOWN_LABEL, PreparedInfo

# Examples per file: about half a gigabyte of photographs
SHARD_SIZE = 10_000
# Examples between two updates of the metadata
_WRITE_SIZE = 64


def write_records(
    folder: pathlib.Path,
    splits: Mapping[str, Callable[[], Iterator[Record]]],
    *,
    optional: Sequence[str] = (),
    keypoints: int = 0,
    has_objects: bool = True,
) -> None:
    """Writes records as ArrayRecord files with TFDS metadata.

    Args:
      folder: to write to.
      splits: split -> function that returns its records, with encoded bytes as their images.
      optional: names of the optional fields in the records.
      keypoints: number of keypoints per object.
      has_objects: False leaves out the fields of objects. Records are then read twice as fast.
    """
    features = _make_features(optional, keypoints, has_objects)
    unknown = {"label": UNKNOWN_LABEL} if "label" in optional else {}

    def to_example(record: Record) -> dict[str, Any]:
        fields = {name: v for name, v in record.items() if has_objects or name != "objects"}
        # TFDS stores the bytes of a file object as they are.
        return unknown | fields | {"image": io.BytesIO(record["image"])}

    examples = {name: map(to_example, make()) for name, make in splits.items()}
    write_examples(folder, "segjax_records", features, examples)


def write_examples(
    folder: pathlib.Path,
    name: str,
    features: tfds.features.FeaturesDict,
    splits: Mapping[str, Iterable[Mapping]],
) -> None:
    """Writes a TFDS dataset as ArrayRecord, which `tfds.builder_from_directory` can read.

    Examples go to disk one by one, in order. A TFDS builder would first collect all of them to
    shuffle them: in memory or, beyond 1 GB, in files that it writes with TensorFlow.

    Args:
      folder: to write to.
      name: of the dataset.
      features: of the examples.
      splits: split -> its examples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=__name__
    )
    with silence_tfds():
        info = tfds.core.DatasetInfo(builder=identity, features=features, disable_shuffling=True)
        writer = tfds.core.SequentialWriter(info, SHARD_SIZE, file_format="array_record")
        writer.initialize_splits(list(splits))
        try:
            for split, examples in splits.items():
                examples = iter(examples)
                while chunk := list(itertools.islice(examples, _WRITE_SIZE)):
                    writer.add_examples({split: chunk})
        finally:
            writer.close_all()


def write_info(folder: pathlib.Path, info: PreparedInfo) -> None:
    """Writes info.json, which makes a folder a prepared folder."""
    (folder / INFO_FILE).write_text(json.dumps(dataclasses.asdict(info), indent=1) + "\n")


def _make_features(
    optional: Sequence[str], keypoints: int, has_objects: bool
) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of records."""
    objects = {"rle": tfds.features.Text()}
    for name in [*OBJECT_FIELDS, *(name for name in optional if name in OPTIONAL_OBJECT_FIELDS)]:
        dtype, shape = ALL_OBJECT_FIELDS[name]
        if dtype is np.object_:
            objects[name] = tfds.features.Text()
            continue
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
