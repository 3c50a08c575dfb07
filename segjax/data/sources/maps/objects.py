"""Objects of label maps, and maps that look like masks without objects."""

from typing import Any

import numpy as np
from scipy import ndimage

from segjax.data.sources.raw import SkipCounts
from segjax.data.sources.read_files import build_objects_from_map

# Editors write the inside of a mask as 255. JPEG and resizing leave values a little below.
_WHITE = 250
_OFFER = "(--option components=True makes each separate part of a mask an object)"
BINARY = f"label map has one value in several separate parts; is it a binary mask? {_OFFER}"
SOFT = f"label map looks like a mask with soft edges, each gray value an object {_OFFER}"


def read_map_objects(
    labels: np.ndarray, components: bool, name: str, counts: SkipCounts
) -> list[dict[str, Any]]:
    """Returns the objects of a label map.

    Args:
      labels: int or bool [H, W].
      components: the map is a mask. Each separate part of it is an object.
      name: of the map in the report.
      counts: counts the maps that look wrong.
    """
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if labels.min() < 0:
        reason = "label map has negative values: they count as background"
        counts.add_change(reason, f"{name}, down to {labels.min()}")
        labels = np.maximum(labels, 0)
    if components:
        return build_objects_from_map(split_parts(labels))
    objects = build_objects_from_map(labels)
    areas = {row["id"]: row["area"] for row in objects}
    brightest = max(areas, default=0)
    if len(areas) == 1 and (parts := int(split_parts(labels).max())) > 1:
        counts.add_warning(BINARY, f"{name}, value {brightest} in {parts} parts")
    elif len(areas) > 2 and _WHITE <= brightest <= 255:
        # The inside of a soft mask has one value, and each gray value a few pixels of its edge.
        white = areas.pop(brightest)
        share = white / (white + sum(areas.values()))
        if share >= 0.2 and white >= 10 * np.median(list(areas.values())):
            detail = f"{len(areas) + 1} values, of which {brightest} covers {share:.0%}"
            counts.add_warning(SOFT, f"{name}, {detail}")
    return objects


def split_parts(labels: np.ndarray) -> np.ndarray:
    """Numbers the separate parts of a mask from 1, int [H, W].

    Pixels are inside from half of the largest value on. Those that touch at a corner belong
    together.
    """
    inside = labels * 2.0 >= max(1, int(labels.max()))
    return ndimage.label(inside, structure=np.ones((3, 3)))[0]
