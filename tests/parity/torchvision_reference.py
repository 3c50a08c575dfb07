"""Imports torchvision from the folder in SEGJAX_TORCHVISION, as the reference of parity tests.

    pip install --no-deps --target /some/folder torchvision==0.28.0
    SEGJAX_TORCHVISION=/some/folder pytest -m parity tests/parity

Its models and operations are Python, except for a few operators of a compiled library. The library
does not load beside a torch that it was not built for. This file then registers the two operators
of Mask R-CNN in plain PyTorch, with gradients, under the names of the compiled ones.

The package is hidden again after its import, because transformers, which other tests run, behaves
differently if it finds torchvision.
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
# The operators exist as long as this object.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
_SUPPRESSION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = (
    f"nms{_SUPPRESSION}",
    f"qnms{_SUPPRESSION}",  # never called, but torchvision refers to it during its import
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, "
    "int pooled_width, int sampling_ratio, bool aligned) -> Tensor",
)


class TorchvisionMissing(Exception):
    """Error for a missing torchvision. Its message tells how to install it."""


def torchvision(module: str = "") -> types.ModuleType:
    """Imports the package, or a module of it such as "models.detection.roi_heads".

    Args:
      module: dotted name inside of the package. Empty for the package itself.

    Raises:
      TorchvisionMissing: SEGJAX_TORCHVISION is not a folder that contains torchvision.
    """
    return _modules()[".".join(filter(None, ("torchvision", module)))]


def roi_align(features, rois, scale, height, width, samples, aligned):
    """Computes RoIAlign as a product of row weights, the map, and column weights.

    Args:
      features: maps [N, C, H, W].
      rois: [R, 5], index of the map, then x1 y1 x2 y2 in pixels.
      scale: cells per pixel.
      height: number of bins down.
      width: number of bins across.
      samples: sampling points per bin and axis. 0 takes as many as the bin has cells.
      aligned: shift by half a cell.

    Returns:
      [R, C, height, width].
    """
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
    """Computes the weight of each cell of an axis in the mean of each bin, [bins, length]."""
    count = samples if samples > 0 else int(torch.ceil(extent / bins))
    weights = torch.zeros(bins, length, dtype=low.dtype)
    if count > 0:
        offset = torch.arange(bins)[:, None] * (extent / bins) + (torch.arange(count) + 0.5) * (
            extent / bins / count
        )
        position = low + offset
        # Samples more than one cell outside of the map are 0, and count in the mean.
        share = ((position >= -1) & (position <= length)) / count
        position = position.clamp(0, length - 1)
        cell = position.long()
        weights.scatter_add_(1, cell, share * (1 - (position - cell)))
        weights.scatter_add_(1, (cell + 1).clamp(max=length - 1), share * (position - cell))
    return weights


def compiled() -> bool:
    """Returns True if the compiled operators of torchvision are used, not those of this file."""
    return "torchvision" in "".join(torch.ops.loaded_libraries)


def _nms(boxes, scores, iou_threshold):
    """Runs non-maximum suppression in one group."""
    return batched_nms(boxes, scores, torch.zeros(len(boxes)), iou_threshold)


@functools.cache
def _modules() -> dict[str, types.ModuleType]:
    """Imports torchvision once, and returns its modules by name."""
    folder = os.environ.get(FOLDER)
    if not folder or not os.path.isdir(os.path.join(folder, "torchvision")):
        raise TorchvisionMissing(
            f"{FOLDER} is {folder!r}: expected a folder that contains torchvision. Create one with "
            "`pip install --no-deps --target FOLDER torchvision==0.28.0`"
        )
    # Import torchvision, with empty operators if its compiled library does not load.
    sys.path.insert(0, folder)
    try:
        for library in pathlib.Path(folder, "torchvision").glob("_C*.so"):
            with contextlib.suppress(OSError):
                torch.ops.load_library(library)
        if not compiled():
            for definition in _OPERATORS:  # the import refers to them
                _LIBRARY.define(definition)
        importlib.import_module("torchvision")
    finally:
        # Hide it again.
        sys.path.remove(folder)
        modules = {
            name: sys.modules.pop(name)
            for name in list(sys.modules)
            if name.split(".")[0] == "torchvision"
        }
    # Implement the operators that Mask R-CNN needs.
    if not compiled():
        _LIBRARY.impl("nms", _nms, "CPU")  # torchvision itself registers only a kernel for shapes
        _LIBRARY.impl("roi_align", roi_align, "CompositeImplicitAutograd")
        for name in ("extension", "ops.boxes", "ops.roi_align"):
            modules[f"torchvision.{name}"]._has_ops = lambda: True
            modules[f"torchvision.{name}"]._assert_has_ops = lambda: None
    return modules
