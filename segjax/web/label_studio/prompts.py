"""Labeling configs, prompts and regions of Label Studio, between percent and pixels."""

import dataclasses
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.web.label_studio.brush import encode_brush
from segjax.web.messages import Step

_KEYPOINT, _BOX = "keypointlabels", "rectanglelabels"
_MOST_POINTS = 64


@dataclasses.dataclass(frozen=True)
class LabelingConfig:
    """Parts of a labeling config that masks need.

    Attributes:
      brush: name of the BrushLabels tag.
      image: name of the Image tag that it labels.
      field: field of the task's data that has the image's address.
      labels: names of the brush labels.
    """

    brush: str
    image: str
    field: str
    labels: tuple[str, ...]

    def find_label(self, name: str) -> str:
        """Returns the brush label of a prompt's label.

        Raises:
          ValueError: there is no such brush label.
        """
        if name not in self.labels:
            raise ValueError(
                f"the prompt's label {name!r} is no brush label; the BrushLabels have "
                f"{', '.join(self.labels)}: give keypoints, rectangles and brushes the same labels"
            )
        return name


def parse_config(text: Any) -> LabelingConfig:
    """Parses a labeling config.

    Args:
      text: XML, as Label Studio sends it.

    Raises:
      ValueError: no XML, or no BrushLabels of an Image whose value is a field, such as $image.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError("label_config is missing; expected the project's labeling config (XML)")
    if "<!" in text.replace("<!--", ""):
        raise ValueError("label_config declares entities or types; expected plain tags")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"label_config is no XML: {error}") from None
    # The first brush of an image that comes from the task's data
    images = {tag.get("name"): tag.get("value", "") for tag in root.iter("Image")}
    for tag in root.iter("BrushLabels"):
        image = tag.get("toName", "")
        labels = tuple(label.get("value", "") for label in tag.iter("Label"))
        field = images.get(image, "")
        if tag.get("name") and labels and field.startswith("$"):
            return LabelingConfig(tag.get("name", ""), image, field[1:], labels)
    raise ValueError(
        'label_config has no <BrushLabels> with labels for an <Image value="$...">; masks need '
        "one: see the guide on labeling tools"
    )


@dataclasses.dataclass(frozen=True)
class RegionPrompt:
    """A prompt in pixels.

    Attributes:
      step: points and box.
      label: label of the newest keypoint or rectangle.
    """

    step: Step
    label: str


def parse_context(regions: Any, height: int, width: int) -> RegionPrompt | None:
    """Returns the prompt of the regions that a person has drawn, or None without any.

    Keypoints are clicks, and `is_positive` 0 makes one a background click. A rectangle is a box. Of
    several rectangles, the newest one counts, as a person draws a second one to correct the first.

    Args:
      regions: "result" of the request's context.
      height: of the image, in pixels.
      width: of the image, in pixels.

    Raises:
      ValueError: a malformed region, a rotated image, or a prompt outside of the image.
    """
    if not isinstance(regions, list) or not all(isinstance(one, Mapping) for one in regions):
        raise ValueError("context.result is not a list of regions")
    points, box, label = [], None, ""
    for region in regions:
        kind, value = region.get("type"), region.get("value")
        if kind not in (_KEYPOINT, _BOX):
            continue  # brushes and others are no prompts
        if not isinstance(value, Mapping):
            raise ValueError(f"a region of type {kind} has no value")
        _check_frame(region, height, width)
        left, top = _read_percent(value, "x") * width, _read_percent(value, "y") * height
        # Clicks and boxes in pixels
        if kind == _KEYPOINT:
            positive = region.get("is_positive", 1)
            if positive not in (0, 1):
                raise ValueError(f"is_positive is {positive!r}; expected 0 or 1")
            # The right and the lower border are 100 percent, one pixel past the last
            points.append((min(left, width - 1.0), min(top, height - 1.0), int(positive)))
        else:
            right = left + _read_percent(value, "width") * width
            bottom = top + _read_percent(value, "height") * height
            if value.get("rotation"):
                raise ValueError("the rectangle is rotated; expected an upright one")
            box = (left, top, min(right, float(width)), min(bottom, float(height)))
        # The newest label is that of the mask
        names = value.get(kind)
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise ValueError(f"a region of type {kind} has no label; choose one before drawing")
        label = names[0]
    if len(points) > _MOST_POINTS:
        raise ValueError(f"the context has {len(points)} keypoints; at most {_MOST_POINTS}")
    if not points and box is None:
        return None
    return RegionPrompt(Step(tuple(points), box), label)


def make_region(
    config: LabelingConfig, id: str, mask: np.ndarray, label: str, score: float
) -> dict[str, Any]:
    """Returns a mask as a region of Label Studio.

    Args:
      config: names of the tags.
      id: of the region.
      mask: bool [H, W].
      label: one of the brush labels.
      score: predicted IoU.
    """
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}
    return {
        "id": id,
        "from_name": config.brush,
        "to_name": config.image,
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "type": "brushlabels",
        "readonly": False,
        "score": score,
        "value": value,
    }


def find_context(params: Any) -> Sequence[Any]:
    """Returns the regions of a request's "params", an empty list without a context."""
    context = params.get("context") if isinstance(params, Mapping) else None
    return context.get("result") or [] if isinstance(context, Mapping) else []


def _check_frame(region: Mapping[str, Any], height: int, width: int) -> None:
    """Checks that a region was drawn on the image as it is decoded here."""
    if region.get("image_rotation"):
        raise ValueError("the image is rotated in Label Studio; turn it upright for prompts")
    drawn = region.get("original_height", height), region.get("original_width", width)
    if drawn != (height, width):
        raise ValueError(
            f"the prompt was drawn on an image of {drawn[0]} x {drawn[1]} pixels, and the task's "
            f"image has {height} x {width}; the file was replaced, or its EXIF rotation ignored"
        )


def _read_percent(value: Mapping[str, Any], name: str) -> float:
    """Reads a percentage as a fraction. Rounding errors past 0 and 100 are clipped."""
    number = value.get(name)
    numeric = type(number) in (int, float) and math.isfinite(number)
    if not numeric or not -0.01 <= number <= 100.01:
        raise ValueError(f"{name} of a region is {number!r}; expected percent, 0 to 100")
    return min(max(number, 0.0), 100.0) / 100
