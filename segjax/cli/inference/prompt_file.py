"""Reads prompts for many images from a JSON file: COCO annotations, or a detector's results."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segjax.cli.inference.image_finder import NamedImages
from segjax.cli.measure.coco_files import read_json

FORMS = (
    "expected COCO's {'images': [...], 'annotations': [...]}, or a list of results "
    "[{'image_id': ..., 'bbox': [x, y, width, height]}, ...]"
)
_LARGEST = 1e9  # pixels. NaN and infinity are not below it.
COPIED = ("category_id", "score", "id")  # fields of a row that its result keeps


@dataclasses.dataclass(frozen=True)
class ImagePrompts:
    """An image and the prompts of its objects.

    Attributes:
      file: the image's file.
      image_id: its id in the prompt file.
      prompts: one dict per object: "points" [[x, y], ...], "labels" [...], "box" [x1, y1, x2, y2]
        or None, and "row", the fields of the prompt file that the result keeps.
    """

    file: str
    image_id: Any
    prompts: list[dict[str, Any]]


def read_prompt_file(path: str, images: Sequence[str]) -> list[ImagePrompts]:
    """Reads a prompt file and finds its images.

    A row has a "bbox" [x, y, width, height], or "points" [[x, y], [x, y, label], ...], or both for
    one object.

    Args:
      path: JSON, as COCO's annotations (with "images" and their "file_name"), or a list of results.
      images: folders or files of the command line. Empty: the folder of the prompt file.

    Returns:
      One entry for each image that has prompts.

    Raises:
      FileNotFoundError: an image is missing. The message names the folders that were searched.
      ValueError: no such JSON, or a row that cannot be understood, named by its position.
    """
    where = pathlib.Path(path)
    content = read_json(where, FORMS)
    if isinstance(content, Mapping) and isinstance(content.get("annotations"), list):
        rows, names = content["annotations"], _read_names(content.get("images"), path)
    elif isinstance(content, list) and content:
        rows, names = content, {}
    else:
        raise ValueError(f"{path} holds no prompts; {FORMS}")
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for position, row in enumerate(rows):
        image_id, prompt = _read_row(row, f"{path}, row {position}")
        by_image.setdefault(image_id, []).append(prompt)
        if isinstance(row.get("file_name"), str):
            names.setdefault(image_id, row["file_name"])
    finder = NamedImages(images or [str(where.parent)])
    return [
        ImagePrompts(finder.find(image_id, names.get(image_id)), image_id, prompts)
        for image_id, prompts in by_image.items()
    ]


def _read_names(images: Any, path: str) -> dict[Any, str]:
    """Returns image id -> file name."""
    if not isinstance(images, list):
        raise ValueError(f"{path} has annotations and no list of images; {FORMS}")
    return {
        image["id"]: image["file_name"]
        for image in images
        if isinstance(image, Mapping)
        and isinstance(image.get("id"), int | str)
        and isinstance(image.get("file_name"), str)
    }


def _read_row(row: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """Returns the image id and the prompt of a row."""
    if not isinstance(row, Mapping) or not isinstance(row.get("image_id"), int | str):
        raise ValueError(f"{where} has no image_id; {FORMS}")
    box, points = row.get("bbox"), row.get("points") or []
    if not box and not points:
        raise ValueError(f"{where} has neither a bbox nor points; {FORMS}")
    corners = None
    if box:
        x, y, width, height = _read_numbers(box, (4,), f"{where}: bbox")
        if width <= 0 or height <= 0:
            raise ValueError(
                f"{where}: bbox {box!r:.80} has no area; expected [x, y, width, height]"
            )
        corners = [x, y, x + width, y + height]
    if not isinstance(points, list):
        raise ValueError(
            f"{where}: points is {points!r:.80}; expected [[x, y], [x, y, label], ...]"
        )
    clicks = [_read_numbers(point, (2, 3), f"{where}: a point") for point in points]
    labels = [int(click[2]) if len(click) == 3 else 1 for click in clicks]
    if any(label not in (0, 1) for label in labels):
        raise ValueError(
            f"{where}: the labels of points are {labels!r:.80}; expected 1 (on it) or 0"
        )
    prompt = {"points": [click[:2] for click in clicks], "labels": labels, "box": corners}
    return row["image_id"], prompt | {"row": {name: row[name] for name in COPIED if name in row}}


def _read_numbers(values: Any, counts: Iterable[int], name: str) -> list[float]:
    valid = isinstance(values, list) and len(values) in counts
    if not valid or not all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
        for value in values
    ):
        raise ValueError(f"{name} is {values!r:.80}; expected {min(counts)} finite numbers")
    return [float(value) for value in values]
