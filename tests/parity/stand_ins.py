"""segment-anything imported without torchvision and OpenCV.

It takes four small functions of torchvision, which cannot be beside transformers here, and one of OpenCV; they are
written out below and stand in while it is imported (OpenCV's: while it is used, see `opencv`).
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
    """The package. Raises ModuleNotFoundError where it is not installed."""
    if importlib.util.find_spec("segment_anything") is None:
        raise ModuleNotFoundError(
            "segment-anything is not installed; `pip install segment-anything` brings it"
        )
    parts = _torchvision()
    before = {name: sys.modules.get(name) for name in parts}
    sys.modules.update(parts)
    try:
        return importlib.import_module("segment_anything")
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def opencv() -> types.ModuleType:
    """What segment-anything imports as cv2 to remove small regions."""

    def components(mask, connectivity):
        assert connectivity == 8
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        return count + 1, labels, sizes[:, None], None

    return _module("cv2", connectedComponentsWithStats=components)


def _torchvision() -> dict[str, types.ModuleType]:
    boxes = _module("torchvision.ops.boxes", batched_nms=batched_nms, box_area=_box_area)
    functional = _module(
        "torchvision.transforms.functional",
        to_pil_image=Image.fromarray,
        resize=lambda picture, size: picture.resize(tuple(size)[::-1], Image.BILINEAR),
    )
    names = ("torchvision", "torchvision.ops", "torchvision.transforms")
    return {name: _module(name) for name in names} | {
        module.__name__: module for module in (boxes, functional)
    }


def _box_area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes, scores, groups, iou_threshold):
    """Greedy suppression within groups as torchvision has it: places of the boxes that stay, best first."""
    order, kept = scores.sort(stable=True, descending=True)[1], [torch.empty(0, dtype=torch.long)]
    area = _box_area(boxes)
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best[None])
        low, high = (
            torch.maximum(boxes[best, :2], boxes[order, :2]),
            torch.minimum(boxes[best, 2:], boxes[order, 2:]),
        )
        shared = (high - low).clamp(min=0).prod(1)
        drops = (shared / (area[best] + area[order] - shared) > iou_threshold) & (
            groups[order] == groups[best]
        )
        order = order[~drops]
    return torch.cat(kept)


def _module(name: str, **members) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(members)
    return made
