"""The auto-annotation function of CVAT, with cvat-sdk's own shapes."""

import types

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw

from segjax.compat.cvat import CvatFunction, trace_polygons
from segjax.inference.detection.detector import Detector
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.models.build import build_model, init_model

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


def make_context(threshold=None, polygons=False):
    return types.SimpleNamespace(conf_threshold=threshold, conv_mask_to_poly=polygons)


def test_polygons_enclose_the_parts_of_a_mask():
    mask = np.zeros((40, 60), bool)
    mask[0:20, 5:30] = True
    mask[8:12, 10:14] = False  # a hole
    mask[30:40, 40:60] = True
    polygons = trace_polygons(mask)
    assert len(polygons) == 2
    drawn = Image.new("1", (60, 40))
    for points in polygons:
        ImageDraw.Draw(drawn).polygon([x - 0.5 for x in points], fill=1)
    mask[8:12, 10:14] = True
    drawn = np.asarray(drawn)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9
    assert trace_polygons(np.zeros((4, 4), bool)) == []


def test_everything_of_a_sam():
    masks = pytest.importorskip("cvat_sdk.masks")
    sam = build_model("sam_debug")
    generator = SamAutomaticMaskGenerator(
        sam, init_model(sam, jax.random.key(3)), 4, pred_iou_thresh=0, stability_score_thresh=0
    )
    function = CvatFunction(generator, "cell")
    assert [label.name for label in function.spec.labels] == ["cell"]
    shapes = function.detect(make_context(), IMAGE)
    records = generator.generate(np.asarray(IMAGE))
    assert len(shapes) == len(records) > 0
    for shape, record in zip(shapes, records, strict=True):
        decoded = masks.decode_mask(shape.points, image_width=60, image_height=40)
        np.testing.assert_array_equal(decoded, record["segmentation"])
        assert (shape.type.value, shape.label_id, shape.frame) == ("mask", 0, 0)
    assert function.detect(make_context(threshold=1e9), IMAGE) == []
    polygons = function.detect(make_context(polygons=True), IMAGE)
    assert polygons and {shape.type.value for shape in polygons} == {"polygon"}


def test_objects_of_a_detector():
    pytest.importorskip("cvat_sdk")
    model = build_model("maskrcnn_debug")
    detector = Detector(model, init_model(model, jax.random.key(0)), score_threshold=0.0)
    function = CvatFunction(detector)
    assert [label.name for label in function.spec.labels] == list(detector.names)
    found = detector([np.asarray(IMAGE)])[0]
    shapes = function.detect(make_context(), IMAGE)
    kept = [
        label - 1 for label, mask in zip(found["labels"], found["masks"], strict=True) if mask.any()
    ]
    assert [shape.label_id for shape in shapes] == kept
