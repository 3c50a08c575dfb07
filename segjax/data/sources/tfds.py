"""Image data sets of TensorFlow Datasets, ImageNet before all: data.source = "tfds:imagenet2012".

They are read where TFDS has prepared them, by random access, the pictures as they were encoded. Neither TensorFlow nor
the code that prepared them is needed. A picture's record has no objects.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.file_adapters import FileFormat
from tensorflow_datasets.core.registered import DatasetNotFoundError

from segjax.data.records import Record, make_empty_objects, read_image_size
from segjax.data.storage import PreparedInfo, RecordSource, silence_tfds

TFDS = "tfds:"  # how the name of such a source starts
_IDS = (
    "file_name",
    "filename",
    "image/filename",
    "image_id",
    "id",
)  # fields that name a picture, the first counts


def open_tfds(name: str, split: str, tfds_dir: str = "") -> RecordSource:
    """Source of the pictures of one split; it pickles, as grain's workers need.

    Args:
      name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION, as TFDS writes them; without a version the newest.
      split: a split, or a part of one such as "train[:98%]".
      tfds_dir: where it is prepared; "": where TFDS looks by itself.

    Raises:
      FileNotFoundError: it is not prepared there. ValueError: it cannot be read at random, has no picture or several,
      or has no such split. The messages say what to do.
    """
    builder = _builder(name, tfds_dir)
    example = _ImageExample.of(builder.info.features, name)
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{name} has no split {split!r}; it has {', '.join(builder.info.splits)}"
        ) from error
    categories = tuple(builder.info.features[example.label].names) if example.label else ()
    info = PreparedInfo(
        source=TFDS + name,
        splits={split: {"images": count, "objects": 0}},
        categories=categories,
        category_ids=tuple(range(len(categories))),
        optional=("label",) if example.label else (),
    )
    path = pathlib.Path(builder.data_dir)
    encoded = [
        field
        for field, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    ]
    return RecordSource(path, split, info, read=example, encoded=encoded)


def tfds_splits(name: str, tfds_dir: str = "") -> list[str]:
    """Names of its splits; raises as `open_tfds`."""
    return list(_builder(name, tfds_dir).info.splits)


@dataclasses.dataclass(frozen=True)
class _ImageExample:
    """An example of a TFDS data set as a record; the attributes name its fields."""

    image: str
    label: str | None
    image_id: str | None

    @staticmethod
    def of(features: Any, name: str) -> "_ImageExample":
        """What the fields of a data set mean. Raises ValueError when it is not clear which is the picture."""
        found = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
        pictures = [
            field for field, feature in found.items() if type(feature) is tfds.features.Image
        ]
        if "image" not in pictures and len(pictures) != 1:
            raise ValueError(
                f"{name} is no data set of images: expected a field 'image', or one field that is an Image; "
                f"it has {', '.join(f'{field} ({type(feature).__name__})' for field, feature in found.items())}"
            )
        ids = [field for field in _IDS if field in found and found[field].shape == ()]
        return _ImageExample(
            image="image" if "image" in pictures else pictures[0],
            label="label" if isinstance(found.get("label"), tfds.features.ClassLabel) else None,
            image_id=ids[0] if ids else None,
        )

    def __call__(self, example: Mapping[str, Any], position: int) -> Record:
        image_id = example[self.image_id] if self.image_id else position
        image_id = (
            image_id.decode("utf-8", "replace") if isinstance(image_id, bytes) else str(image_id)
        )
        image = bytes(example[self.image])
        height, width = read_image_size(image, f"record {image_id!r}")
        record = {
            "image": image,
            "image_id": image_id,
            "height": height,
            "width": width,
            "objects": make_empty_objects(),
        }
        label = int(example[self.label]) if self.label else -1
        return record | (
            {} if label < 0 else {"label": label}
        )  # TFDS writes -1 where none is known


def _builder(name: str, tfds_dir: str) -> tfds.core.DatasetBuilder:
    try:
        with silence_tfds():
            builder = read_only_builder.builder_from_files(name, data_dir=tfds_dir or None)
    except DatasetNotFoundError as error:
        looked = tfds_dir or "~/tensorflow_datasets or $TFDS_DATA_DIR"
        raise FileNotFoundError(
            f"TFDS has not prepared {name} in {looked}. Where TensorFlow is installed, prepare it with "
            f"`tfds build {name} --file_format=array_record --data_dir=DIR`, then set data.tfds_dir=DIR. ImageNet's "
            "archives must lie in DIR/downloads/manual first. A folder of its pictures needs no TFDS: "
            "`segjax prepare images FOLDER --out data/imagenet`"
        ) from error
    formats = builder.info.available_file_formats()
    if not formats & FileFormat.with_random_access():
        raise ValueError(
            f"{name} in {builder.data_dir} is stored as {', '.join(sorted(f.value for f in formats)) or 'nothing'}, "
            "which can be read in one order only. Where TensorFlow is installed, convert it: `tfds convert_format "
            f"--dataset_version_dir={builder.data_dir} --out_file_format=array_record`"
        )
    return builder
