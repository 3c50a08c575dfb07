"""Image datasets of TensorFlow Datasets (TFDS), such as data.source = "tfds:imagenet2012".

They are read where TFDS has prepared them, by random access and with the images as they are
encoded. Neither TensorFlow nor the code that prepared them is needed. Records have no objects.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.file_adapters import FileFormat
from tensorflow_datasets.core.registered import DatasetNotFoundError
from tensorflow_datasets.core.utils import file_utils

from segjax.data.metadata import (
    check_tfds_metadata,
    count_images,
    get_first_line,
    silence_tfds,
)
from segjax.data.records import Record, make_empty_objects, read_image_size
from segjax.data.storage import PreparedInfo, RecordSource

TFDS = "tfds:"  # prefix of the names of these sources
# Fields that may name an image; the first that exists is used
_ID_FIELDS = ("file_name", "filename", "image/filename", "image_id", "id")


def open_tfds(name: str, split: str, tfds_dir: str = "") -> RecordSource:
    """Opens one split of a dataset that TFDS has prepared.

    Args:
      name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION in TFDS's notation. Without a version, the
        newest one is opened.
      split: a split, or a part of one such as "train[:98%]".
      tfds_dir: folder in which it is prepared. "" is TFDS's default.

    Returns:
      A source that can be pickled, as worker processes need.

    Raises:
      FileNotFoundError: the dataset is not prepared in that folder.
      ValueError: the dataset has no random access, no image or several, or no such split, or its
        metadata names code outside TFDS.
    """
    builder = _open_builder(name, tfds_dir)
    example = _ImageExample.from_features(builder.info.features, name)
    count = count_images(builder, split, name)
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


def list_tfds_splits(name: str, tfds_dir: str = "") -> list[str]:
    """Lists the splits of a dataset. Arguments and errors are those of `open_tfds`."""
    return list(_open_builder(name, tfds_dir).info.splits)


@dataclasses.dataclass(frozen=True)
class _ImageExample:
    """Converter from examples of a TFDS dataset to records.

    Attributes:
      image: name of the field of the image.
      label: name of the field of the label, or None.
      image_id: name of the field that identifies the image. None uses the index.
    """

    image: str
    label: str | None
    image_id: str | None

    @staticmethod
    def from_features(features: Any, name: str) -> "_ImageExample":
        """Finds the fields of a dataset. Raises ValueError unless exactly one is the image."""
        found = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
        images = [field for field, feature in found.items() if type(feature) is tfds.features.Image]
        if "image" not in images and len(images) != 1:
            fields = (f"{field} ({type(feature).__name__})" for field, feature in found.items())
            raise ValueError(
                f"{name} is not an image dataset: expected a field 'image', or one field that is "
                f"an Image; it has {', '.join(fields)}"
            )
        ids = [field for field in _ID_FIELDS if field in found and found[field].shape == ()]
        return _ImageExample(
            image="image" if "image" in images else images[0],
            label="label" if isinstance(found.get("label"), tfds.features.ClassLabel) else None,
            image_id=ids[0] if ids else None,
        )

    def __call__(self, example: Mapping[str, Any], index: int) -> Record:
        """Converts the example at an index of the split."""
        image_id = example[self.image_id] if self.image_id else index
        if isinstance(image_id, bytes):
            image_id = image_id.decode("utf-8", "replace")
        image_id = str(image_id)
        image = bytes(example[self.image])
        height, width = read_image_size(image, f"record {image_id!r}")
        record = {
            "image": image,
            "image_id": image_id,
            "height": height,
            "width": width,
            "objects": make_empty_objects(),
        }
        # TFDS writes -1 if the label is unknown.
        label = int(example[self.label]) if self.label else -1
        return record | ({} if label < 0 else {"label": label})


def _open_builder(name: str, tfds_dir: str) -> tfds.core.DatasetBuilder:
    """Opens the metadata of a prepared dataset. Raises like `open_tfds`."""
    for folder in _list_versions(name, tfds_dir):
        check_tfds_metadata(folder)
    try:
        with silence_tfds():
            builder = read_only_builder.builder_from_files(name, data_dir=tfds_dir or None)
    except DatasetNotFoundError as error:
        folder = tfds_dir or "~/tensorflow_datasets or $TFDS_DATA_DIR"
        raise FileNotFoundError(
            f"TFDS has not prepared {name} in {folder}. Prepare it on a machine with TensorFlow: "
            f"`tfds build {name} --file_format=array_record --data_dir=DIR`. Then set "
            "data.tfds_dir=DIR. For ImageNet, put the archives into DIR/downloads/manual first. A "
            "folder of ImageNet's images needs no TFDS: "
            "`segjax prepare images FOLDER --out data/imagenet`"
        ) from error
    # TFDS and protocol buffers raise many kinds of errors for damaged metadata.
    except Exception as error:
        raise ValueError(
            f"{name} in {tfds_dir or 'the folder of TFDS'} cannot be opened, its dataset_info.json "
            f"or features.json is damaged: {get_first_line(error)}"
        ) from error
    formats = builder.info.available_file_formats()
    if not formats & FileFormat.with_random_access():
        found = ", ".join(sorted(each.value for each in formats)) or "nothing"
        raise ValueError(
            f"{name} in {builder.data_dir} is stored as {found}, which has no random access. "
            "Convert it on a machine with TensorFlow: `tfds convert_format "
            f"--dataset_version_dir={builder.data_dir} --out_file_format=array_record`"
        )
    return builder


def _list_versions(name: str, tfds_dir: str) -> list[pathlib.Path]:
    """Lists the folders of all versions and configs of a dataset, which TFDS may open."""
    found: list[pathlib.Path] = []
    dataset = re.split("[/:]", name)[0]
    for root in file_utils.list_data_dirs(given_data_dir=tfds_dir or None):
        found += pathlib.Path(root, dataset).expanduser().glob("**/features.json")
    return sorted(path.parent for path in found)
