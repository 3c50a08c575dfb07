"""Confusion matrix of detections, counted by hand, by boxes and by masks."""

import numpy as np
from records_made import block, record_of

from segjax.evaluation.coco_format import build_coco_ground_truth
from segjax.evaluation.coco_results import CocoResults
from segjax.evaluation.confusion import compute_confusion_matrix

HW = (100, 100)


def test_each_object_is_matched_once_by_the_most_confident_detection():
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
    ground_truth = build_coco_ground_truth(records, ["cup", "zebra"], [3, 90])
    results = CocoResults(ground_truth)
    boxes = [
        [0, 0, 20, 20],  # cup predicted as cup
        [1, 0, 21, 20],  # the same again: a false positive
        [40, 40, 60, 60],  # zebra predicted as cup
        [5, 62, 15, 72],  # in the crowd only if x and y were swapped: a false positive
        [62, 2, 80, 30],  # inside the crowd: not counted
        [80, 80, 90, 90],  # not confident enough
    ]
    results.add(
        0,
        boxes,
        [0.9, 0.8, 0.7, 0.6, 0.9, 0.1],
        [0, 1, 0, 1, 0, 0],
        [block(HW, *np.array(b)[[1, 0, 3, 2]]) for b in boxes],
    )
    for kind in ("bbox", "segm"):
        counts, names = compute_confusion_matrix(ground_truth, results.rows(), kind=kind)
        assert names == ["cup", "zebra", "background"]
        # The cup of the second image and the second zebra of the first are missed.
        np.testing.assert_array_equal(counts, [[1, 0, 1], [1, 0, 1], [0, 2, 0]])
