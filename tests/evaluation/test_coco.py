"""COCO's numbers: equal to pycocotools on raw files, and cases that can be counted by hand."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from records_made import block, record_of

from segjax.data.sources.coco import CocoFolder
from segjax.data.sources.raw import SkipCounts
from segjax.evaluation.coco import evaluate_coco
from segjax.evaluation.coco_format import build_coco_ground_truth
from segjax.evaluation.coco_results import CocoResults
from segjax.evaluation.confusion import compute_confusion_matrix
from segjax.evaluation.extended_eval import extract_boundary
from segjax.masks import decode_mask, encode_mask

HW = (300, 300)


def evaluate(records, predictions, kind, categories=("thing",), ids=None, **options):
    """Evaluates predictions {index: (masks, scores, categories)}, with the boxes of the masks."""
    ground_truth = build_coco_ground_truth(records, categories, ids)
    results = CocoResults(ground_truth)
    for index, (masks, scores, classes) in predictions.items():
        results.add(index, [box_of(mask) for mask in masks], scores, classes, np.asarray(masks))
    return evaluate_coco(ground_truth, results.rows(), kind, **options)


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("kind", ["bbox", "segm", "boundary"])
def test_perfect_predictions_have_ap_one_and_no_predictions_have_zero(kind):
    sizes = (20, 60, 150)  # small, medium, large
    masks = [block(HW, 5, 5, 5 + size, 5 + size) for size in sizes]
    records = [record_of([mask], image_id=str(k)) for k, mask in enumerate(masks)]
    numbers = evaluate(
        records, {k: ([mask], [0.9], [0]) for k, mask in enumerate(masks)}, kind
    ).summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert numbers == pytest.approx({f"{kind}/{name}": 1.0 for name in names})
    assert set(evaluate(records, {}, kind).summarize().values()) == {0.0}


def test_one_detection_for_two_objects_covers_51_of_the_101_recalls():
    masks = [block(HW, 5, 5, 55, 55), block(HW, 100, 100, 150, 150)]
    numbers = evaluate([record_of(masks)], {0: (masks[:1], [0.3], [0])}, "segm").summarize()
    assert numbers["segm/AP"] == pytest.approx(51 / 101) and numbers["segm/AR100"] == 0.5
    assert "segm/APs" not in numbers and numbers["segm/APm"] == pytest.approx(51 / 101)


def test_a_false_positive_counts_by_its_confidence():
    mask, elsewhere = block(HW, 5, 5, 55, 55), block(HW, 100, 100, 150, 150)
    for wrong, ap in (
        (0.9, 0.5),
        (0.1, 1.0),
    ):  # precision 1/2 at every recall, or 1 if it comes last
        scores = evaluate(
            [record_of([mask])], {0: ([mask, elsewhere], [0.5, wrong], [0, 0])}, "bbox"
        )
        assert scores.summarize()["bbox/AP"] == pytest.approx(ap)
    # A second detection of the same object is a false positive too.
    twice = evaluate(
        [record_of([mask, elsewhere])],
        {0: ([mask, mask, elsewhere], [0.9, 0.8, 0.7], [0] * 3)},
        "bbox",
    )
    assert twice.summarize()["bbox/AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_overlap_of_77_percent_passes_six_of_ten_thresholds():
    ground_truth, prediction = block(HW, 0, 0, 100, 100), block(HW, 0, 0, 77, 100)
    for kind in ("bbox", "segm"):
        numbers = evaluate(
            [record_of([ground_truth])], {0: ([prediction], [0.5], [0])}, kind
        ).summarize()
        assert numbers[f"{kind}/AP"] == pytest.approx(0.6)
        assert (numbers[f"{kind}/AP50"], numbers[f"{kind}/AP75"]) == pytest.approx((1, 1))


def test_detections_in_a_crowd_are_neither_correct_nor_wrong():
    mask, crowd = block(HW, 5, 5, 55, 55), block(HW, 100, 100, 290, 290)
    inside = [block(HW, 100 + k, 120, 130 + k, 150) for k in (0, 60)]
    records = [record_of([mask, crowd], crowd=[False, True])]
    predictions = {0: ([mask, *inside], [0.1, 0.9, 0.8], [0, 0, 0])}
    for kind in ("bbox", "segm", "boundary"):
        assert evaluate(records, predictions, kind).summarize()[f"{kind}/AP"] == pytest.approx(1)
    uncrowded = [record_of([mask, crowd])]
    assert evaluate(uncrowded, predictions, "segm").summarize()["segm/AP"] < 0.3


def test_objects_without_a_mask_are_measured_as_boxes_and_ignored_by_masks():
    masks = [block(HW, 5, 5, 55, 55), block(HW, 100, 100, 150, 150)]
    records = [record_of(masks, box_only=np.array([False, True]))]
    triangle = masks[1] & np.tri(*HW, k=0, dtype=bool)  # its IoU with the box's area is near 0.5
    predictions = {0: ([masks[0], triangle], [0.5, 0.9], [0, 0])}
    for kind in ("segm", "boundary"):
        assert evaluate(records, predictions, kind).summarize()[f"{kind}/AP"] == pytest.approx(1)
    missed = {0: (masks[:1], [0.5], [0])}
    assert evaluate(records, missed, "bbox").summarize()["bbox/AR100"] == 0.5
    assert evaluate(records, missed, "segm").summarize()["segm/AR100"] == 1


def test_the_annotated_area_decides_the_size():
    record = record_of([block(HW, 5, 5, 55, 55)])  # 2500 pixels
    record["objects"]["area"][:] = 1000  # below 32 * 32
    numbers = evaluate([record], {0: ([block(HW, 5, 5, 55, 55)], [0.5], [0])}, "segm").summarize()
    assert numbers["segm/APs"] == pytest.approx(1) and "segm/APm" not in numbers


def test_the_largest_number_of_detections_is_an_option():
    masks = [block(HW, 10 * k, 10 * k, 10 * k + 9, 10 * k + 9) for k in range(20)]
    predictions = {0: (masks, np.linspace(1, 0.5, 20), [0] * 20)}
    numbers = evaluate([record_of(masks)], predictions, "bbox", max_detections=(1, 5)).summarize()
    assert (numbers["bbox/AR1"], numbers["bbox/AR5"]) == (0.05, 0.25)
    assert numbers["bbox/AP"] == pytest.approx(26 / 101)  # recalls 0 to 0.25


def test_classes_are_separate_and_ids_may_have_gaps():
    masks = [block(HW, 5, 5, 55, 55), block(HW, 100, 100, 150, 150)]
    records = [record_of(masks, category=[0, 2], image_id="7")]
    scores = evaluate(
        records, {0: (masks, [0.9, 0.8], [0, 1])}, "segm", ("cup", "zebra", "bus"), (3, 9, 90)
    )
    assert scores.per_class() == pytest.approx(
        {"cup": 1.0, "bus": 0.0}
    )  # there is no zebra in the data
    assert scores.summarize()["segm/AP"] == pytest.approx(0.5)
    recalls, precision = scores.curve(0.5)
    assert recalls.shape == (101,) and np.allclose(precision, 0.5)
    with pytest.raises(ValueError, match="no precision at IoU 0.3"):
        scores.curve(0.3)


def test_boundary_iou_of_a_shrunken_square():
    """Counts the pixels of two rings.

    In 500 x 500 pixels a boundary is 14 pixels wide (0.02 of 707.1). Squares of 100 and 98 pixels
    with one center have boundaries of 100^2 - 72^2 and 98^2 - 70^2 pixels that share 98^2 - 72^2.
    Boundary IoU is 4420 / 5100 = 0.867, mask IoU is 0.96.
    """
    hw, whole = (500, 500), block((500, 500), 100, 100, 200, 200)
    for margin, ap in ((1, 0.8), (10, 0.0)):  # margin 10: (80^2 - 72^2) / 7296 = 1/6, mask IoU 0.64
        prediction = block(hw, 100 + margin, 100 + margin, 200 - margin, 200 - margin)
        numbers = evaluate(
            [record_of([whole])], {0: ([prediction], [0.5], [0])}, "boundary"
        ).summarize()
        assert numbers["boundary/AP"] == pytest.approx(ap)
    assert evaluate([record_of([whole])], {0: ([prediction], [0.5], [0])}, "segm").summarize()[
        "segm/AP"
    ] == pytest.approx(0.3)


def test_boundaries_equal_repeated_erosion():
    mask = np.random.default_rng(0).random((40, 60)) < 0.97
    mask[:, 55:] = False
    rle = {"size": [40, 60], "counts": encode_mask(mask)}
    eroded = np.pad(mask, 1)
    for _ in range(2):  # 0.03 of 72.1 px, rounded
        shifted = [np.roll(eroded, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        eroded = np.pad(np.all(shifted, axis=0)[1:-1, 1:-1], 1)
    boundary = decode_mask(extract_boundary(rle, 0.03)["counts"], 40, 60)
    np.testing.assert_array_equal(boundary, mask & ~eroded[1:-1, 1:-1])
    empty = {"size": [4, 4], "counts": encode_mask(np.zeros((4, 4)))}
    assert extract_boundary(empty, 0.02) == empty


def keypoint_case(offset, sigmas):
    keypoints = np.array([[[20, 20, 2], [60, 20, 1], [0, 0, 0], [40, 60, 2]]], np.float32)
    record = record_of([block(HW, 10, 10, 80, 80)], keypoints=keypoints)
    ground_truth = build_coco_ground_truth([record], ["figure"], keypoint_names=tuple("abcd"))
    results = CocoResults(ground_truth)
    predicted = keypoints[..., :2] + [offset, 0]
    predicted[0, 2] = 250  # not labeled, so its position does not count
    results.add(0, record["objects"]["box"], [0.7], [0], keypoints=predicted)
    return (
        ground_truth,
        results,
        evaluate_coco(ground_truth, results.rows(), "keypoints", sigmas=sigmas).summarize(),
    )


def test_keypoints_by_oks():
    """Shifts all points by d. With 4900 px and sigma 0.1, OKS = exp(-d^2 / (2 * 4900 * 0.2^2))."""
    sigmas = [0.1] * 4
    assert list(keypoint_case(0, sigmas)[2].values()) == pytest.approx([1.0] * 6)
    for oks, ap in ((0.77, 0.6), (0.52, 0.1), (0.3, 0.0)):
        numbers = keypoint_case(math.sqrt(-2 * 4900 * 0.2**2 * math.log(oks)), sigmas)[2]
        assert numbers["keypoints/AP"] == pytest.approx(ap) and "keypoints/APs" not in numbers
        assert numbers["keypoints/AR20"] == numbers["keypoints/ARm"] == pytest.approx(ap)
    with pytest.raises(ValueError, match="17 sigmas for 4 keypoints"):
        keypoint_case(0, None)
    ground_truth, results, _ = keypoint_case(0, sigmas)
    # COCO stores the index of a pixel, records its center.
    assert ground_truth["annotations"][0]["keypoints"] == [
        19.5,
        19.5,
        2,
        59.5,
        19.5,
        1,
        0,
        0,
        0,
        39.5,
        59.5,
        2,
    ]
    assert ground_truth["annotations"][0]["num_keypoints"] == 3 and results.rows()[0]["keypoints"][
        :3
    ] == [
        19.5,
        19.5,
        1,
    ]
    with pytest.raises(ValueError, match="ground truth has no keypoints"):
        evaluate_coco(
            build_coco_ground_truth([record_of([block(HW, 1, 1, 9, 9)])], ["x"]), [], "keypoints"
        )


def test_images_without_exhaustive_labels_are_evaluated_as_in_lvis():
    mask, other = block(HW, 5, 5, 55, 55), block(HW, 100, 100, 150, 150)
    lists = {
        "neg_categories": np.array([1], np.int32),
        "not_exhaustive_categories": np.array([], np.int32),
    }
    record = record_of([mask], category=[0]) | lists
    has_b = (
        record_of([mask], category=[1], image_id="b")
        | lists
        | {"neg_categories": np.array([], np.int32)}
    )
    ground_truth = build_coco_ground_truth(
        [record, has_b], ["a", "b", "c"], frequencies=("f", "r", "c")
    )

    def ap(classes, changed=ground_truth):
        results = CocoResults(changed)
        results.add(0, [box_of(mask), box_of(other)], [0.5, 0.9], classes, [mask, other])
        results.add(1, [box_of(mask)], [0.5], [1], [mask])
        return evaluate_coco(changed, results.rows(), "segm").summarize()

    assert ap([0, 2])["segm/AP"] == pytest.approx(1)  # nobody checked the first image for c
    assert (ap([0, 0])["segm/APf"], ap([0, 0])["segm/APr"]) == pytest.approx(
        (0.5, 1)
    )  # a was checked: the second one is a false positive
    assert ap([0, 1])["segm/APr"] == pytest.approx(0.5)  # b is known to be absent
    assert "segm/APc" not in ap([0, 2]) and "segm/AR300" in ap([0, 2])
    unsure = build_coco_ground_truth(
        [record | {"not_exhaustive_categories": np.array([0], np.int32)}, has_b], ["a", "b", "c"]
    )
    assert ap([0, 0], unsure)["segm/AP"] == pytest.approx(1)  # there may be another a
    results = CocoResults(ground_truth)
    results.add(0, [box_of(other), box_of(mask)], [0.9, 0.5], [0, 0])
    few = evaluate_coco(ground_truth, results.rows(), "bbox", max_detections=(1,)).summarize()
    assert few["bbox/AR1"] == 0  # only the most confident of all classes counts, the false positive


def test_ground_truth_from_records_scores_as_the_raw_files_do(real_data, tmp_path):
    """Predictions on COCO photographs are shifted, mislabeled, missing and duplicated."""
    folder, rng = real_data("coco_cc"), np.random.default_rng(0)
    source = CocoFolder(folder)
    records = []
    for record in source.records("val2017", SkipCounts()):
        records.append(record)
        if len(records) == 6:
            break
    ground_truth = build_coco_ground_truth(records, source.categories, source.category_ids)
    results = CocoResults(ground_truth)
    for index, record in enumerate(records):
        objects = record["objects"]
        kept = np.flatnonzero(~objects["crowd"] & (rng.random(len(objects["id"])) < 0.8))
        kept = np.concatenate([kept, kept[:2]])
        masks = [decode_mask(objects["rle"][k], record["height"], record["width"]) for k in kept]
        masks = [np.roll(mask, rng.integers(-6, 7, 2), (0, 1)) for mask in masks]
        boxes = objects["box"][kept] + rng.normal(0, 3, (len(kept), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        classes = np.where(rng.random(len(kept)) < 0.9, objects["category"][kept], 0)
        results.add(index, boxes, rng.random(len(kept)), classes, masks)
    results.write(tmp_path / "results.json")
    for kind in ("bbox", "segm"):
        rows = json.loads((tmp_path / "results.json").read_text())
        for row in rows if kind == "segm" else ():
            del row["bbox"]  # as detectron2 does, or areas would be those of the boxes
        with contextlib.redirect_stdout(io.StringIO()):
            raw = COCO(str(folder / "instances_val2017.json"))
            reference = COCOeval(raw, raw.loadRes(rows), kind)
            reference.params.imgIds = [int(record["image_id"]) for record in records]
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
        numbers = evaluate_coco(ground_truth, results.rows(), kind).summarize()
        assert 0.1 < numbers[f"{kind}/AP"] < 0.9
        np.testing.assert_allclose(list(numbers.values()), reference.stats, atol=1e-12)


def test_invalid_results_raise():
    ground_truth = build_coco_ground_truth([record_of([block(HW, 1, 1, 9, 9)])], ["thing"])
    row = {"image_id": "image", "category_id": 0, "score": 0.5, "bbox": [1, 1, 2, 2]}
    with pytest.raises(ValueError, match="choose one of bbox, segm, boundary, keypoints"):
        evaluate_coco(ground_truth, [], "box")
    with pytest.raises(
        ValueError, match="results without 'segmentation' cannot be evaluated as 'segm'"
    ):
        evaluate_coco(ground_truth, [row], "segm")
    with pytest.raises(ValueError, match="image 'other' and category 0"):
        evaluate_coco(ground_truth, [row | {"image_id": "other"}])
    untouched = [dict(row)]
    assert evaluate_coco(ground_truth, untouched).summarize() and untouched == [row]


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ({"size": [30, 20], "counts": "P"}, "not run lengths"),
        ({"size": [30, 20], "counts": ""}, "0 pixels in all for an image of 30 x 20"),
        ({"size": [30, 20], "counts": [2**32 + 600]}, "runs of 4294967896 pixels in all"),
        ({"size": [20, 30], "counts": [600]}, "size is 20 x 30; expected the image's, 30 x 20"),
        ("P", "expected a mapping"),
        ([[1, 1, float("nan"), 2, 3, 3]], "polygon is NaN or far outside"),
        ([[1, 1, 1e9, 2, 3, 3]], "polygon is NaN or far outside"),
        ([["a"]], "polygon is not numbers"),
        ([[[1, 1], [2, 2], [3, 1]]], "polygon is a list of shape .3, 2."),
    ],
)
def test_masks_that_pycocotools_would_read_unchecked_raise(segmentation, message):
    """Some of them crashed the process, others had no overlap with anything."""
    ground_truth = build_coco_ground_truth([record_of([block((30, 20), 1, 1, 9, 9)])], ["thing"])
    row = {"image_id": "image", "category_id": 0, "score": 0.5, "segmentation": segmentation}
    for measure in (evaluate_coco, compute_confusion_matrix):
        with pytest.raises(ValueError, match=f"mask of image 'image': .*{message}"):
            measure(ground_truth, [row], kind="segm")
    ground_truth["annotations"][0]["segmentation"] = segmentation
    with pytest.raises(ValueError, match=message):
        evaluate_coco(ground_truth, [], "segm")
