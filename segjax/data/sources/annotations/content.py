"""Reading COCO annotation files and checking their structure."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.sources.annotations.values import describe, parse_whole_number


def read_annotations(
    path: pathlib.Path, image_fields: Sequence[str] = ("id", "file_name")
) -> dict[str, Any]:
    """Reads a COCO annotation file and checks its structure.

    UTF-8 with a byte order mark, UTF-16 and UTF-32 are read too. Single entries are not checked:
    a malformed one costs only itself.

    Args:
      path: of the JSON file.
      image_fields: fields of an entry of "images". A file in which no entry has them is of
        another format.

    Raises:
      ValueError: the file is not JSON, or has not the lists of a COCO file.
    """
    try:
        # json detects the encoding of bytes.
        content = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path} is not a COCO file: its JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); is the download complete?") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path} is not a COCO instance file: it has no list {key!r}")
    required = {"images": image_fields, "categories": ("id", "name")}
    for key, fields in required.items():
        entries = content[key]
        for field in fields:
            if entries and not any(isinstance(e, Mapping) and field in e for e in entries):
                raise ValueError(
                    f"{path}: an entry of {key!r} has no {field!r}: {describe(entries[0])}"
                )
    return content


def read_categories(
    content: Mapping[str, Any], path: pathlib.Path
) -> tuple[list[tuple[int, Mapping]], list[str]]:
    """Reads the categories of a file.

    Returns:
      A pair of the usable categories with their ids, and descriptions of the others.

    Raises:
      ValueError: there are categories, and none is usable.
    """
    usable, broken = [], []
    for category in content["categories"]:
        known = isinstance(category, Mapping) and category.get("name") not in (None, "")
        identity = parse_whole_number(category.get("id")) if known else None
        if identity is None:
            broken.append(f"{path.name}, {describe(category)}")
        else:
            usable.append((identity, dict(category, name=str(category["name"]))))
    if broken and not usable:
        raise ValueError(
            f"{path}: no category has a whole number 'id' and a 'name'; the first is "
            f"{describe(content['categories'][0])}"
        )
    return usable, broken
