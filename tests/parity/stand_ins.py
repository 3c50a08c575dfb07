"""Imports segment-anything without torchvision and OpenCV.

The package uses four small functions of torchvision, which would change the behavior of
transformers in other tests, and one of OpenCV. The substitutes below replace those of torchvision
during its import, and that of OpenCV during its use, see `opencv`.
"""

import functools
import importlib
import importlib.util
import sys
import types

import numpy as np
import torch
from PIL import Image
from scipy import ndimage


@functools.cache
def segment_anything() -> types.ModuleType:
    """Imports the package with substitutes for torchvision.

    Raises:
      ModuleNotFoundError: segment-anything is not installed.
    """
    if importlib.util.find_spec("segment_anything") is None:
        raise ModuleNotFoundError(
            "segment-anything is not installed. Install it with `pip install segment-anything`"
        )
    substitutes = _torchvision()
    before = {name: sys.modules.get(name) for name in substitutes}
    sys.modules.update(substitutes)
    try:
        return importlib.import_module("segment_anything")
    finally:
        # Restore the modules, so that other tests do not find the substitutes.
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def opencv() -> types.ModuleType:
    """Makes the substitute for cv2, with which segment-anything removes small regions."""

    def components(mask, connectivity):
        assert connectivity == 8
        # Only the areas of the statistics are read, and OpenCV keeps them in the last column.
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        return count + 1, labels, sizes[:, None], None

    return _module("cv2", connectedComponentsWithStats=components)


def _torchvision() -> dict[str, types.ModuleType]:
    """Makes substitutes for the modules of torchvision, by name."""
    boxes = _module("torchvision.ops.boxes", batched_nms=batched_nms, box_area=_box_area)
    functional = _module(
        "torchvision.transforms.functional",
        to_pil_image=Image.fromarray,
        resize=lambda image, size: image.resize(tuple(size)[::-1], Image.BILINEAR),
    )
    names = ("torchvision", "torchvision.ops", "torchvision.transforms")
    return {name: _module(name) for name in names} | {
        module.__name__: module for module in (boxes, functional)
    }


def _box_area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes, scores, groups, iou_threshold):
    """Runs greedy non-maximum suppression within groups, as in torchvision.

    Args:
      boxes: [N, 4], x1 y1 x2 y2.
      scores: [N].
      groups: [N]. Boxes of different groups do not suppress each other.
      iou_threshold: a better box suppresses the boxes above this IoU.

    Returns:
      int64 indices of the selected boxes, the best first.
    """
    order = scores.sort(stable=True, descending=True)[1]
    selected = [torch.empty(0, dtype=torch.long)]
    area = _box_area(boxes)
    while len(order):
        best, order = order[0], order[1:]
        selected.append(best[None])
        # Intersection over union of the best box and the others
        low, high = (
            torch.maximum(boxes[best, :2], boxes[order, :2]),
            torch.minimum(boxes[best, 2:], boxes[order, 2:]),
        )
        intersection = (high - low).clamp(min=0).prod(1)
        iou = intersection / (area[best] + area[order] - intersection)
        suppressed = (iou > iou_threshold) & (groups[order] == groups[best])
        order = order[~suppressed]
    return torch.cat(selected)


def _module(name: str, **members) -> types.ModuleType:
    """Makes a module of a name with the given members."""
    module = types.ModuleType(name)
    module.__dict__.update(members)
    return module
