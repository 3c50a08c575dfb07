"""A SAM redraws a detector's masks: what it is asked, in which order, and whose mask stays."""

import numpy as np
import pytest

from segjax.inference.detection import sam_refinement
from segjax.inference.detection.postprocess import Found, expected_iou
from segjax.inference.detection.sam_refinement import refined
from segjax.masks import decode_mask, encode_mask

HW = (6, 8)
BOXES = np.array([[0, 0, 3, 3], [1, 1, 4, 4], [2, 2, 8, 6]], np.float32)
IOU = {0: (0.2, 0.9, 0.3), 1: (0.6, 0.1, 0.1), 2: (0.1, 0.2, 0.3)}  # of the three masks of each box


def mask_of(column):
    mask = np.zeros(HW, bool)
    mask[:, column] = True
    return mask


class Annotator:
    """Knows the boxes by their left edge; says what it was asked. Its last mask is empty, its second one unsure."""

    def __init__(self):
        self.asked = []

    def set_image(self, image):
        self.original_size = image.shape[:2]

    def predict_batch(self, boxes, mask_input=None, multimask_output=True):
        numbers = boxes[:, 0].astype(int).tolist()
        if mask_input is None:
            self.asked.append(numbers)
            low_res = np.array(
                [[np.full((4, 4), 10 * n + m) for m in range(3)] for n in numbers], np.float32
            )
            return None, np.array([IOU[n] for n in numbers], np.float32), low_res
        assert not multimask_output
        self.asked.append([(n, low[0, 0]) for n, low in zip(numbers, mask_input, strict=True)])
        masks = np.array([[mask_of(5) & (n < 2)] for n in numbers])
        return masks, np.array([[0.8 if n != 1 else 0.4] for n in numbers], np.float32), None


def found(masks=True):
    rows = [encode_mask(mask_of(n)) for n in range(3)] if masks else None
    promised = np.array([0.85, 0.3, 0.1], np.float32) if masks else None
    return Found(
        HW,
        BOXES,
        np.array([1, 2, 1]),
        np.array([0.9, 0.8, 0.7], np.float32),
        rows,
        mask_iou=promised,
    )


def columns(answer):
    return [np.flatnonzero(decode_mask(counts, *HW).any(0)).tolist() for counts in answer.masks]


def test_the_box_then_the_box_with_the_most_confident_mask(monkeypatch):
    monkeypatch.setattr(sam_refinement, "BYTES_AT_ONCE", 2 * 3 * 6 * 8)
    sam, before = Annotator(), found()
    answer = refined(sam, np.zeros((*HW, 3), np.uint8), before)
    assert sam.asked == [[0, 1], [(0, 1), (1, 10)], [2], [(2, 22)]], "two boxes at once have room"
    assert columns(answer) == [[5], [5], [2]], "an empty mask replaces none"
    np.testing.assert_allclose(answer.mask_iou, [0.8, 0.4, 0.1])
    assert answer._replace(masks=before.masks, mask_iou=before.mask_iou) == before


def test_an_unsure_mask_replaces_none_if_asked():
    answer = refined(Annotator(), np.zeros((*HW, 3), np.uint8), found(), least_iou=0.5)
    assert columns(answer) == [[5], [1], [2]]


def test_the_surer_of_both_masks_stays_if_asked():
    """The SAM promises .8 and .4, the detector's own probabilities .85 and .3."""
    answer = refined(Annotator(), np.zeros((*HW, 3), np.uint8), found(), if_surer=True)
    assert columns(answer) == [[0], [5], [2]]
    np.testing.assert_allclose(answer.mask_iou, [0.85, 0.4, 0.1])


def test_what_probabilities_promise():
    cells = np.zeros((4, 4, 4))
    cells[0, :2] = 1  # certain
    cells[1, :2] = 0.75  # 6 of 8 cells are expected to be right, and none is missed
    cells[2, :2], cells[2, 2:] = 0.75, 0.25  # and 2 of those outside to be wrong: 6 of 8 + 2
    np.testing.assert_allclose(expected_iou(cells), [1, 0.75, 0.6, 0])


def test_a_detector_of_boxes_alone_gets_masks():
    assert columns(refined(Annotator(), np.zeros((*HW, 3), np.uint8), found(masks=False))) == [
        [5],
        [5],
        [],
    ]


def test_another_picture_is_refused():
    with pytest.raises(
        ValueError, match=r"\(8, 6\) pixels, but objects were found in one of \(6, 8\)"
    ):
        refined(Annotator(), np.zeros((8, 6, 3), np.uint8), found())


def test_another_rule_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="refine_if is 'never'; expected one of always, surer"):
        sam_refinement.refiner("nowhere", "never")
