"""torchvision, out of a folder that SEGJAX_TORCHVISION names:

    pip install --no-deps --target /some/folder torchvision==0.28.0
    SEGJAX_TORCHVISION=/some/folder pytest -m parity tests/parity

Its models and operations are Python but for a few operators of a compiled library. Where that does not load, as beside
a torch that it was not made for, the two that a Mask R-CNN takes are given here in plain torch under the names of the
compiled ones; torch differentiates them. The package is hidden again once it is imported, since transformers, which
other tests run, takes another path where it finds it.
"""

import contextlib
import functools
import importlib
import os
import pathlib
import sys
import types

import torch

from parity.stand_ins import batched_nms

FOLDER = "SEGJAX_TORCHVISION"
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # operators live as long as this does
_SUPPRESSION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = (
    f"nms{_SUPPRESSION}",
    f"qnms{_SUPPRESSION}",  # never called
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)


class TorchvisionMissing(Exception):
    """There is no torchvision to be tested against; says how to bring it."""


def torchvision(module: str = "") -> types.ModuleType:
    """The package, or a module of it such as "models.detection.roi_heads".

    Raises:
      TorchvisionMissing: SEGJAX_TORCHVISION names no folder that holds it.
    """
    return _modules()[".".join(filter(None, ("torchvision", module)))]


def roi_align(features, rois, scale, height, width, samples, aligned):
    """RoIAlign of maps [N, C, H, W], RoIs (n, x1, y1, x2, y2) [R, 5] by the weights of a map's rows and columns."""
    pooled = [features.new_zeros(0, features.shape[1], height, width)]
    for roi in rois:
        image = features[int(roi[0])]
        low = roi[1:3] * scale - (0.5 if aligned else 0)
        extent = (roi[3:] - roi[1:3]) * scale
        extent = extent if aligned else extent.clamp(min=1)
        columns, rows = (
            _weights(low[axis], extent[axis], bins, image.shape[2 - axis], samples)
            for axis, bins in enumerate((width, height))
        )
        pooled.append(torch.einsum("ph,chw,qw->cpq", rows, image, columns)[None])
    return torch.cat(pooled)


def _weights(low, extent, bins, length, samples):
    """[bins, length]: what each of the map's cells along an axis adds to the mean of each bin."""
    count = samples if samples > 0 else int(torch.ceil(extent / bins))
    weights = torch.zeros(bins, length, dtype=low.dtype)
    if count > 0:
        place = torch.arange(bins)[:, None] * (extent / bins) + (torch.arange(count) + 0.5) * (
            extent / bins / count
        )
        at = low + place
        inside = ((at >= -1) & (at <= length)) / count
        at = at.clamp(0, length - 1)
        cell = at.long()
        weights.scatter_add_(1, cell, inside * (1 - (at - cell)))
        weights.scatter_add_(1, (cell + 1).clamp(max=length - 1), inside * (at - cell))
    return weights


def compiled() -> bool:
    """Whether the package's own operators are in use, not those of this file."""
    return "torchvision" in "".join(torch.ops.loaded_libraries)


def _nms(boxes, scores, iou_threshold):
    return batched_nms(boxes, scores, torch.zeros(len(boxes)), iou_threshold)


@functools.cache
def _modules() -> dict[str, types.ModuleType]:
    folder = os.environ.get(FOLDER)
    if not folder or not os.path.isdir(os.path.join(folder, "torchvision")):
        raise TorchvisionMissing(
            f"{FOLDER} is {folder!r}: expected a folder that holds torchvision; "
            "`pip install --no-deps --target FOLDER torchvision==0.28.0` fills one"
        )
    sys.path.insert(0, folder)
    try:
        for library in pathlib.Path(folder, "torchvision").glob("_C*.so"):
            with contextlib.suppress(OSError):
                torch.ops.load_library(library)
        if not compiled():
            for definition in _OPERATORS:  # named while it is imported
                _LIBRARY.define(definition)
        importlib.import_module("torchvision")
    finally:
        sys.path.remove(folder)
        modules = {
            name: sys.modules.pop(name)
            for name in list(sys.modules)
            if name.split(".")[0] == "torchvision"
        }
    if not compiled():
        _LIBRARY.impl("nms", _nms, "CPU")  # it brought a kernel of its own for shapes alone
        _LIBRARY.impl("roi_align", roi_align, "CompositeImplicitAutograd")
        for name in ("extension", "ops.boxes", "ops.roi_align"):
            modules[f"torchvision.{name}"]._has_ops = lambda: True
            modules[f"torchvision.{name}"]._assert_has_ops = lambda: None
    return modules
