"""Resizing of images against the functions of torchvision (interpolate) and detectron2 (Pillow)."""

import math

import numpy as np
import pytest

from segjax.data.examples.detection import DetectionExample
from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.placement import compute_short_side_size

pytestmark = pytest.mark.parity


def test_torchvision_resizes_by_interpolate():
    import torch

    photograph = load_demonstration_photograph()
    for crop in ((400, 590), (333, 500), (397, 211), (100, 160)):
        image = photograph[: crop[0], : crop[1]]
        record = {
            "image": np.ascontiguousarray(image),
            "image_id": "a",
            "height": crop[0],
            "width": crop[1],
        }
        record["objects"] = {
            "box": np.zeros((0, 4)),
            "rle": [],
            "crowd": np.zeros(0, bool),
            "category": np.zeros(0, int),
        }
        options = dict(short_side=160, long_side=266, resize="torchvision", train=False)
        made = DetectionExample((288, 288), 1, **options)(record, np.random.default_rng(0))
        scale = min(160 / min(crop), 266 / max(crop))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        resized = torch.nn.functional.interpolate(
            pixels,
            scale_factor=scale,
            mode="bilinear",
            recompute_scale_factor=True,
            align_corners=False,
        )
        expected = resized[0].permute(1, 2, 0).numpy()
        assert tuple(made["size"]) == expected.shape[:2]
        content = made["image"][: expected.shape[0], : expected.shape[1]]
        # Pillow rounds to integers, and twice, once per axis, where the image grows.
        assert np.abs(content - expected).max() <= (0.5 if scale < 1 else 1.0) + 1e-3


def test_sizes_equal_those_of_both_libraries():
    """The formulas of ResizeShortestEdge (detectron2) and GeneralizedRCNNTransform
    (torchvision).
    """
    for height in range(100, 700, 29):
        for width in range(100, 1300, 7):
            for short in (640, 672, 800):
                scale = short / min(height, width)
                sides = (short, scale * width) if height < width else (scale * height, short)
                if max(sides) > 1333:
                    shrunk = 1333 / max(sides)
                    sides = tuple(side * shrunk for side in sides)
                assert compute_short_side_size((height, width), short, 1333) == tuple(
                    int(side + 0.5) for side in sides
                )
                scale = min(short / min(height, width), 1333 / max(height, width))
                expected = math.floor(height * scale), math.floor(width * scale)
                assert (
                    compute_short_side_size((height, width), short, 1333, "torchvision") == expected
                )
