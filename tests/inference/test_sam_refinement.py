"""Mask refinement by a SAM: its prompts, their order, and the conditions for replacing a mask."""

import numpy as np
import pytest

from segjax.inference.detection import sam_refinement
from segjax.inference.detection.postprocess import ImageDetections, expected_iou
from segjax.inference.detection.sam_refinement import refine_masks
from segjax.masks import decode_mask, encode_mask

HW = (6, 8)
BOXES = np.array([[0, 0, 3, 3], [1, 1, 4, 4], [2, 2, 8, 6]], np.float32)
# Predicted IoU of the three masks of each box
IOU = {0: (0.2, 0.9, 0.3), 1: (0.6, 0.1, 0.1), 2: (0.1, 0.2, 0.3)}


def make_mask(column):
    mask = np.zeros(HW, bool)
    mask[:, column] = True
    return mask


class FakePredictor:
    """Fake predictor that records its prompts. The last mask is empty, the second one unsure."""

    def __init__(self):
        self.prompts = []

    def set_image(self, image):
        self.original_size = image.shape[:2]

    def predict_batch(self, boxes, mask_input=None, multimask_output=True):
        numbers = boxes[:, 0].astype(int).tolist()
        if mask_input is None:
            self.prompts.append(numbers)
            low_res = np.array(
                [[np.full((4, 4), 10 * n + m) for m in range(3)] for n in numbers], np.float32
            )
            return None, np.array([IOU[n] for n in numbers], np.float32), low_res
        assert not multimask_output
        self.prompts.append([(n, low[0, 0]) for n, low in zip(numbers, mask_input, strict=True)])
        masks = np.array([[make_mask(5) & (n < 2)] for n in numbers])
        return masks, np.array([[0.8 if n != 1 else 0.4] for n in numbers], np.float32), None


def make_detections(masks=True):
    rows = [encode_mask(make_mask(n)) for n in range(3)] if masks else None
    mask_iou = np.array([0.85, 0.3, 0.1], np.float32) if masks else None
    return ImageDetections(
        HW,
        BOXES,
        np.array([1, 2, 1]),
        np.array([0.9, 0.8, 0.7], np.float32),
        rows,
        mask_iou=mask_iou,
    )


def mask_columns(detections):
    """Returns the columns of the pixels of each mask."""
    masks = [decode_mask(counts, *HW) for counts in detections.masks]
    return [np.flatnonzero(mask.any(0)).tolist() for mask in masks]


def test_prompts_are_the_box_and_then_the_box_with_the_most_confident_mask(monkeypatch):
    monkeypatch.setattr(sam_refinement, "BYTES_AT_ONCE", 2 * 3 * 6 * 8)
    sam, before = FakePredictor(), make_detections()
    refined = refine_masks(sam, np.zeros((*HW, 3), np.uint8), before)
    assert sam.prompts == [[0, 1], [(0, 1), (1, 10)], [2], [(2, 22)]], (
        "the memory holds two boxes at once"
    )
    assert mask_columns(refined) == [[5], [5], [2]], "an empty mask replaces no mask"
    np.testing.assert_allclose(refined.mask_iou, [0.8, 0.4, 0.1])
    assert refined._replace(masks=before.masks, mask_iou=before.mask_iou) == before


def test_a_mask_below_the_minimum_iou_replaces_no_mask():
    refined = refine_masks(
        FakePredictor(), np.zeros((*HW, 3), np.uint8), make_detections(), min_iou=0.5
    )
    assert mask_columns(refined) == [[5], [1], [2]]


def test_only_a_surer_mask_replaces_a_mask_if_so_configured():
    """The SAM predicts IoU 0.8 and 0.4. The detector expects 0.85 and 0.3."""
    refined = refine_masks(
        FakePredictor(), np.zeros((*HW, 3), np.uint8), make_detections(), only_if_surer=True
    )
    assert mask_columns(refined) == [[0], [5], [2]]
    np.testing.assert_allclose(refined.mask_iou, [0.85, 0.4, 0.1])


def test_expected_iou_by_hand():
    cells = np.zeros((4, 4, 4))
    cells[0, :2] = 1  # certain
    cells[1, :2] = 0.75  # expected intersection 6, union 8
    cells[2, :2], cells[2, 2:] = 0.75, 0.25  # expected intersection 6, union 8 + 2
    np.testing.assert_allclose(expected_iou(cells), [1, 0.75, 0.6, 0])


def test_a_detector_without_a_mask_head_gets_masks():
    assert mask_columns(
        refine_masks(FakePredictor(), np.zeros((*HW, 3), np.uint8), make_detections(masks=False))
    ) == [
        [5],
        [5],
        [],
    ]


def test_an_image_of_another_size_raises():
    with pytest.raises(
        ValueError, match=r"\(8, 6\) pixels, but the detections belong to an image of \(6, 8\)"
    ):
        refine_masks(FakePredictor(), np.zeros((8, 6, 3), np.uint8), make_detections())


def test_an_unknown_rule_raises_before_the_checkpoint_is_read():
    with pytest.raises(ValueError, match="refine_if is 'never'; expected one of always, surer"):
        sam_refinement.make_mask_refiner("nowhere", "never")
