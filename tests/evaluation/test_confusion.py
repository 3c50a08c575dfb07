"""Confusion of detections, counted by hand; and boxes of the same objects by their masks."""

import numpy as np
from records_made import block, record_of

from segjax.evaluation.coco_format import CocoResults, coco_truth
from segjax.evaluation.confusion import detection_confusion

HW = (100, 100)


def test_each_object_is_taken_once_and_by_the_most_certain():
    masks = [
        block(HW, 0, 0, 20, 20),
        block(HW, 40, 40, 60, 60),
        block(HW, 80, 0, 100, 20),
        block(HW, 0, 60, 40, 100),
    ]
    records = [
        record_of(masks, category=[0, 1, 1, 0], crowd=[0, 0, 0, 1]),
        record_of(masks[:1], image_id="b"),
    ]
    truth = coco_truth(records, ["cup", "zebra"], [3, 90])
    results = CocoResults(truth)
    boxes = [
        [0, 0, 20, 20],  # cup named cup
        [1, 0, 21, 20],  # the same again: nothing there
        [40, 40, 60, 60],  # zebra named cup
        [5, 62, 15, 72],  # lies in the crowd's box's column, but not in it: nothing there
        [62, 2, 80, 30],  # lies in the crowd: not counted
        [80, 80, 90, 90],  # not certain enough
    ]
    results.add(
        0,
        boxes,
        [0.9, 0.8, 0.7, 0.6, 0.9, 0.1],
        [0, 1, 0, 1, 0, 0],
        [block(HW, *np.array(b)[[1, 0, 3, 2]]) for b in boxes],
    )
    for kind in ("bbox", "segm"):
        counts, names = detection_confusion(truth, results.rows(), kind=kind)
        assert names == ["cup", "zebra", "nothing"]
        # The second picture's cup was not found, nor the first's second zebra.
        np.testing.assert_array_equal(counts, [[1, 0, 1], [1, 0, 1], [0, 2, 0]])
