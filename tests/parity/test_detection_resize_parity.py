"""Resizing of images against the functions of torchvision (interpolate) and detectron2 (Pillow)."""

import math

import numpy as np
import pytest
from PIL import Image

from segjax.data.examples.detection import DetectionExample
from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.placement import place_for_detection
from segjax.images.resizing import compute_short_side_size
from segjax.models.detection.conventions import CONVENTIONS

pytestmark = pytest.mark.parity


def test_evaluated_images_equal_those_of_the_transform(torchvision):
    """GeneralizedRCNNTransform normalizes before it resizes. Both orders give the same values."""
    import torch

    statistics = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    transform = torchvision("models.detection.transform").GeneralizedRCNNTransform(
        800, 1333, *statistics
    )
    photograph = load_demonstration_photograph()
    photograph = np.tile(photograph, (3, 3, 1))
    for hw in ((800, 534), (534, 800), (1200, 1700), (801, 1333), (333, 1000), (480, 640)):
        image = np.ascontiguousarray(photograph[: hw[0], : hw[1]])
        with torch.no_grad():
            images, _ = transform([torch.from_numpy(image.transpose(2, 0, 1).copy()) / 255])
        placement = place_for_detection(hw, (1344, 1344), 800, 1333, "torchvision")
        found = CONVENTIONS["torchvision"].pixels.normalize(placement.apply_exactly(image))
        assert found.shape[:2] == images.image_sizes[0]
        want = images.tensors[0, :, : found.shape[0], : found.shape[1]].numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(found, want, atol=1e-5)


def test_detectron2_resizes_bytes_by_pillow():
    """detectron2's ResizeTransform is Pillow's resize of the complete image."""
    photograph = load_demonstration_photograph()[:400, :590]
    placement = place_for_detection((400, 590), (1344, 1344), 300, 500)
    want = Image.fromarray(photograph).resize((443, 300), Image.BILINEAR)  # of 442.5 x 300
    np.testing.assert_array_equal(placement.apply_exactly(photograph), want)


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
        options = dict(short_side=160, long_side=266, resize="torchvision")
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
