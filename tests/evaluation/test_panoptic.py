"""Panoptic quality by hand, and `segjax eval panoptic`."""

import json

import numpy as np
import pytest
from PIL import Image

from segjax.cli import main
from segjax.evaluation.panoptic import (
    PanopticError,
    PanopticScores,
    count_pairs,
    decode_ids,
    encode_ids,
)

CATEGORIES = {1: {"name": "thing", "isthing": 1}, 2: {"name": "stuff", "isthing": 0}}
SEGMENT = lambda number, **more: {"id": number, "category_id": 1} | more


def rows(*spans, columns=slice(None)):
    """Returns ids [10, 10]: spans of rows with the ids 1, 2, ..."""
    ids = np.zeros((10, 10), np.int64)
    for number, (start, stop) in enumerate(spans, 1):
        ids[start:stop, columns] = number
    return ids


def score(prediction, truth, *, crowd=()):
    scores = PanopticScores(CATEGORIES)
    listed = [
        [SEGMENT(int(n)) for n in np.unique(prediction) if n],
        [SEGMENT(int(n), iscrowd=int(n in crowd)) for n in np.unique(truth) if n],
    ]
    scores.add(prediction, listed[0], truth, listed[1])
    return scores.summarize()["All"]


def test_two_halves():
    found = score(rows((0, 6), (6, 10)), rows((0, 5), (5, 10)))
    assert found["PQ"] == found["SQ"] == pytest.approx((5 / 6 + 4 / 5) / 2)  # 0.81667
    assert found["RQ"] == 1.0


def void_truth():
    truth = rows((0, 5), (5, 10))
    truth[5:, :4] = 0  # 20 pixels of void beside the 30 of the second segment
    return truth


def test_void_does_not_enlarge_the_union():
    assert score(rows((0, 5), (5, 10)), void_truth())["PQ"] == 1.0


def test_a_prediction_on_void_is_ignored():
    prediction = rows((0, 5), (5, 10))
    prediction[5:, :5] = 3  # 25 pixels, of which 20 are void
    assert score(prediction, void_truth())["PQ"] == pytest.approx((1 + 25 / 30) / 2)  # 0.91667


def test_a_prediction_of_which_less_is_void_counts():
    truth = rows((0, 5), (5, 10))
    truth[5:7, :5] = 0  # 10 of 25 pixels
    prediction = rows((0, 5), (5, 10))
    prediction[5:, :5] = 3
    found = score(prediction, truth)
    # The second segment has 40 pixels, of which the prediction has 25
    assert found["PQ"] == pytest.approx((1 + 25 / 40) / 2.5)


def test_crowds_are_no_misses_and_hide_predictions():
    truth = rows((0, 5), (5, 10))
    assert score(rows((0, 5)), truth, crowd=(2,))["PQ"] == 1.0
    assert score(rows((0, 5), (5, 10)), truth, crowd=(2,))["PQ"] == 1.0


def test_an_iou_of_one_half_is_no_match():
    truth, prediction = rows((0, 8)), rows((4, 10))  # intersection 40, union 100
    assert score(prediction, truth)["PQ"] == 0.0
    prediction = np.zeros((10, 10), np.int64)
    prediction[:4] = 1  # 40 of 80: IoU 0.5
    assert score(prediction, truth)["RQ"] == 0.0


def test_groups_are_means_over_categories_that_occur():
    scores = PanopticScores(CATEGORIES | {3: {"name": "absent", "isthing": 1}})
    truth = rows((0, 5), (5, 10))
    listed = [SEGMENT(1), {"id": 2, "category_id": 2}]
    scores.add(rows((0, 5)), [SEGMENT(1)], truth, listed)
    found = scores.summarize()
    assert found["Things"] == {"PQ": 1.0, "SQ": 1.0, "RQ": 1.0, "n": 1}
    assert found["Stuff"] == {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0, "n": 1}
    assert found["All"]["PQ"] == 0.5 and set(found["per_class"]) == {"1", "2"}


def test_random_segmentations_agree_with_loops():
    """Compares with the definition, written as loops over segments."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, prediction = (rng.integers(0, 5, (4, 4)).repeat(3, 0).repeat(3, 1) for _ in "ab")
        scores = PanopticScores({1: {}})
        listed = [[SEGMENT(int(n)) for n in np.unique(x) if n] for x in (prediction, truth)]
        scores.add(prediction, listed[0], truth, listed[1])
        iou, matched = 0.0, [set(), set()]
        for p in np.unique(prediction[prediction > 0]):
            for g in np.unique(truth[truth > 0]):
                both = ((prediction == p) & (truth == g)).sum()
                union = (((prediction == p) & (truth != 0)) | (truth == g)).sum()
                if both / union > 0.5:
                    iou += both / union
                    matched[0].add(p), matched[1].add(g)
        fp = [
            p
            for p in np.unique(prediction)
            if p and p not in matched[0] and (truth[prediction == p] == 0).mean() <= 0.5
        ]
        fn = [g for g in np.unique(truth) if g and g not in matched[1]]
        assert scores.iou[1] == pytest.approx(iou) and scores.tp[1] == len(matched[0])
        assert (scores.fp[1], scores.fn[1]) == (len(fp), len(fn))


def test_ids_are_colors():
    ids = np.array([[0, 1, 256, 65536, (1 << 24) - 1]])
    np.testing.assert_array_equal(decode_ids(encode_ids(ids)), ids)
    assert encode_ids(ids)[0, 2].tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="expected 0 to 16777215"):
        encode_ids(np.array([[1 << 24]]))
    assert count_pairs(np.array([1, 1, 2]), np.array([3, 3, 3])) == {(1, 3): 2, (2, 3): 1}


@pytest.mark.parametrize(
    "prediction, listed, message",
    [
        (rows((0, 5)), [], "segments of the PNG are not in the JSON, such as 1"),
        (rows((0, 5)), [SEGMENT(1), SEGMENT(9)], "have no pixel in the PNG, such as 9"),
        (rows((0, 5)), [{"id": 1, "category_id": 7}], "unknown category 7"),
        (rows((0, 5)), [SEGMENT(1), SEGMENT(1)], "lists the segment 1 twice"),
        (np.zeros((4, 4), int), [], r"prediction is \(4, 4\)"),
    ],
)
def test_files_that_disagree_are_errors(prediction, listed, message):
    with pytest.raises(PanopticError, match=message):
        PanopticScores(CATEGORIES).add(prediction, listed, rows((0, 5)), [SEGMENT(1)])


def write(folder, name, ids, **content):
    (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(encode_ids(ids)).save(folder / name / "a.png")
    segments = [SEGMENT(int(n)) for n in np.unique(ids) if n]
    row = {"image_id": 7, "file_name": "a.png", "segments_info": segments}
    categories = [{"id": number, **category} for number, category in CATEGORIES.items()]
    whole = {"annotations": [row], "categories": categories} | content
    (folder / f"{name}.json").write_text(json.dumps(whole))
    return folder / f"{name}.json"


def test_command(tmp_path, capsys):
    predictions = write(tmp_path, "predictions", rows((0, 6), (6, 10)), categories=[])
    truth = write(tmp_path, "truth", rows((0, 5), (5, 10)))
    arguments = ["--predictions", str(predictions), "--truth", str(truth), "--out", str(tmp_path)]
    assert main(["eval", "panoptic", *arguments]) == 0
    found = json.loads((tmp_path / "panoptic.json").read_text())
    assert found["All"]["PQ"] == pytest.approx(0.816667, abs=1e-6)
    assert found["per_class"]["1"]["name"] == "thing"
    assert "81.67" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, message",
    [
        ({"annotations": []}, "has no annotations"),
        ({"annotations": [{"image_id": 7}]}, "annotation 0: expected COCO's panoptic format"),
        ({"categories": []}, "has no categories"),
    ],
)
def test_command_tells_mistakes(tmp_path, capsys, content, message):
    predictions = write(tmp_path, "predictions", rows((0, 6)))
    truth = write(tmp_path, "truth", rows((0, 5)), **content)
    arguments = ["--predictions", str(predictions), "--truth", str(truth), "--out", str(tmp_path)]
    assert main(["eval", "panoptic", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_missing_images_and_foreign_paths_are_told(tmp_path, capsys):
    truth = write(tmp_path, "truth", rows((0, 5)))
    row = {"image_id": 8, "file_name": "../a.png", "segments_info": []}
    for rows_, message in (
        ([row | {"file_name": "a.png"}], "lacks 1 of 1 images, such as 7"),
        ([row], "outside of its folder"),
    ):
        predictions = write(tmp_path, "predictions", rows((0, 6)), annotations=rows_)
        arguments = ["--predictions", str(predictions), "--truth", str(truth)]
        assert main(["eval", "panoptic", *arguments, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
