"""Metadata of prepared folders and TFDS datasets: checked first, then opened.

TFDS imports the module of every feature class that `features.json` names. A folder from another
person could thereby run code, so only TFDS's own classes may be named.
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tensorflow_datasets.core.utils import tqdm_utils

from segjax.files import read_json_object
from segjax.messages import make_printable

INFO_FILE = "info.json"
_FEATURES_FILE, _DATASET_FILE = "features.json", "dataset_info.json"
# Fields that name a class to TFDS, in the spellings that protocol buffers and old versions accept
_CLASS_FIELDS = ("pythonClassName", "python_class_name", "type")
# TFDS writes metadata of a few kB. A hundred thousand class names are a few MB.
_MAX_BYTES = 2**26
_AGAIN = "prepare the data again, or copy it again if it comes from elsewhere"
# Field of info.json -> type of the value, and of its elements
_INFO_KINDS = {
    "source": (str, object),
    "splits": (dict, dict),
    "categories": (list, str),
    "category_ids": (list, int),
    "optional": (list, str),
    "keypoints": (int, object),
    "keypoint_names": (list, str),
    "frequencies": (list, str),
}
_REQUIRED = ("source", "splits", "categories", "category_ids")


def read_info_fields(path: pathlib.Path) -> dict[str, Any]:
    """Reads the fields of info.json.

    Args:
      path: of the file.

    Raises:
      ValueError: it is damaged, or was not written by `segjax prepare`.
    """
    fields = _read_object(path)
    unknown = fields.keys() - _INFO_KINDS.keys()
    missing = [name for name in _REQUIRED if name not in fields]
    if unknown or missing:
        found = f"an unknown field {min(unknown)!r}" if unknown else f"no field {missing[0]!r}"
        raise ValueError(
            f"{path} has {found}; expected the file that this version of `segjax prepare` writes"
        )
    for name, value in fields.items():
        kind, element = _INFO_KINDS[name]
        elements = value.values() if isinstance(value, dict) else value
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits or (kind in (list, dict) and not all(isinstance(e, element) for e in elements)):
            _raise_damaged(path, f"its field {name!r} is of another type")
    for split, counts in fields["splits"].items():
        if not all(_is_count(counts.get(name)) for name in ("images", "objects")):
            _raise_damaged(path, f"split {split!r} has no numbers of images and objects")
    if len(fields["categories"]) != len(fields["category_ids"]):
        _raise_damaged(path, "categories and category_ids differ in number")
    return fields


def check_tfds_metadata(folder: pathlib.Path) -> None:
    """Checks the files that TFDS reads from a folder, before TFDS reads them.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, names a class that is not TFDS's own, or files elsewhere.
    """
    contents = {}
    for name in (_FEATURES_FILE, _DATASET_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; {_AGAIN}")
        contents[name] = _read_object(folder / name)
    # Other fields of dataset_info.json have types too, which name no classes.
    features = {
        _FEATURES_FILE: contents[_FEATURES_FILE],
        _DATASET_FILE: contents[_DATASET_FILE].get("features"),
    }
    allowed = _list_feature_classes()
    for name, content in features.items():
        for found in _find_class_names(content, folder / name):
            if found not in allowed:
                raise ValueError(
                    f"{folder / name} names the class {found[:100]!r}, which is not one of "
                    "TensorFlow Datasets' own features. Opening it would run code of that module, "
                    "so it is refused"
                )
    _check_file_names(contents[_DATASET_FILE], folder / _DATASET_FILE)


def open_builder(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
    """Opens the metadata of a folder that TFDS or `segjax.data.writer` has written.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, or opening it would run code.
    """
    check_tfds_metadata(folder)
    try:
        with silence_tfds():
            return tfds.builder_from_directory(folder)
    # TFDS and protocol buffers raise many kinds of errors for damaged metadata.
    except Exception as error:
        raise ValueError(
            f"{folder} is not a dataset that TFDS can read: {get_first_line(error)}; {_AGAIN}"
        ) from error


def count_images(
    builder: tfds.core.DatasetBuilder, split: str, name: object, hint: str = ""
) -> int:
    """Counts the images of a split, or of a part of one in TFDS's notation.

    Args:
      builder: of the dataset.
      split: name of the split or part.
      name: of the dataset, in error messages.
      hint: end of the message about a missing split.

    Raises:
      ValueError: there is no such split, or it is empty.
    """
    names = make_printable(", ".join(builder.info.splits))
    try:
        count = builder.info.splits[split].num_examples
    # TFDS raises KeyError, ValueError and AssertionError.
    except Exception as error:
        first = make_printable(next(iter(builder.info.splits), "train"))[:40]
        raise ValueError(
            f"{name} has no split {split!r}; it has {names}. Parts of splits are splits too: "
            f"{first}[:80%] and {first}[80%:]{hint}"
        ) from error
    if count < 1:  # damaged metadata can say less than 0
        raise ValueError(f"the split {split!r} of {name} is empty; it has {names}")
    return count


@contextlib.contextmanager
def silence_tfds() -> Iterator[None]:
    """Hides the progress bars and log lines of TFDS inside the block."""
    # TFDS has no getter for this setting. An inactive bar is of another class.
    bars = not isinstance(tqdm_utils.tqdm(disable=True), tqdm_utils.EmptyTqdm)
    verbosity = absl_logging.get_verbosity()
    tfds.display_progress_bar(False)
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        tfds.display_progress_bar(bars)
        absl_logging.set_verbosity(verbosity)


def _list_feature_classes() -> set[str]:
    """Lists the full names of TFDS's own feature classes, and their earlier names."""
    classes = [
        value
        for value in vars(tfds.features).values()
        if isinstance(value, type) and issubclass(value, tfds.features.FeatureConnector)
    ]
    names = {f"{each.__module__}.{each.__name__}" for each in classes}
    return names.union(*(each.__dict__.get("ALIASES", ()) for each in classes))


def _find_class_names(value: Any, path: pathlib.Path, depth: int = 0) -> Iterator[str]:
    """Yields every string in a place where TFDS would read the name of a class."""
    if depth > 100:
        _raise_damaged(path, "it is nested too deeply")
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key in _CLASS_FIELDS and isinstance(entry, str):
                yield entry
            yield from _find_class_names(entry, path, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            yield from _find_class_names(entry, path, depth + 1)
    # Features in an old form are JSON inside a string.
    elif isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return
        yield from _find_class_names(inner, path, depth + 1)


def _check_file_names(content: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises ValueError if the names of splits lead to files of other folders."""
    splits = content.get("splits", [])
    if not isinstance(splits, list) or not all(isinstance(split, Mapping) for split in splits):
        _raise_damaged(path, "its field 'splits' is of another type")
    names = [content.get("name", "")]
    for split in splits:
        names += [split.get(field, "") for field in ("name", "filepathTemplate")]
        names += [split.get("filepath_template", "")]
    for name in names:
        if not isinstance(name, str) or "/" in name or "\\" in name or ".." in name:
            _raise_damaged(path, f"{str(name)[:100]!r} is not the name of a split or of its files")


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object. Raises ValueError for anything else."""
    size = path.stat().st_size
    if size > _MAX_BYTES:
        _raise_damaged(path, f"it has {size} bytes")
    return read_json_object(path, _AGAIN)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def get_first_line(error: Exception) -> str:
    """Returns the first line of a library's message, without control characters.

    Such messages may quote any content of a damaged file, at any length.
    """
    line = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
    return make_printable(line)


def _raise_damaged(path: pathlib.Path, found: str) -> None:
    raise ValueError(f"{path} is damaged: {found}; {_AGAIN}")
