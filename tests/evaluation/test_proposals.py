"""Average recall of proposals by hand, and the commands for proposals and boxes."""

import json

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image

from segjax.cli import main
from segjax.evaluation.zero_shot.proposals import evaluate_proposals
from segjax.masks import encode_mask
from segjax.models.sam.build import build_sam, init_sam
from segjax.weights.safetensors import save_variables

SIDE = 200


def square(x, y, side, left=0):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y : y + side, x + left : x + side] = True
    return {"size": [SIDE, SIDE], "counts": encode_mask(mask)}


def make_truth(*squares, frequencies=("f",)):
    rows = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 1 + (i - 1) % len(frequencies),
            "segmentation": square(x, y, side),
            "bbox": [x, y, side, side],
            "area": side**2,
            "iscrowd": 0,
        }
        for i, (x, y, side) in enumerate(squares, 1)
    ]
    categories = [
        {"id": i, "name": f"c{i}"} | ({"frequency": letter} if letter else {})
        for i, letter in enumerate(frequencies, 1)
    ]
    image = {"id": 1, "file_name": "a.png", "height": SIDE, "width": SIDE}
    return {"images": [image], "annotations": rows, "categories": categories}


SQUARES = [(0, 0, 20), (40, 40, 50), (100, 0, 50), (40, 100, 100)]


def propose(*segmentations):
    return [
        {"image_id": 1, "segmentation": segmentation, "score": 1 - 0.1 * rank}
        for rank, segmentation in enumerate(segmentations)
    ]


def test_one_missing_object_of_four():
    found = evaluate_proposals(make_truth(*SQUARES), propose(*(square(*s) for s in SQUARES[:3])))
    assert found["AR@1000"] == found["AR@10"] == 0.75 and found["AR@1"] == 0.25
    assert found["AR@1000/s"] == 1.0 and found["AR@1000/m"] == 1.0 and found["AR@1000/l"] == 0.0


def test_a_shifted_proposal_counts_below_its_iou():
    x, y, side = SQUARES[1]
    shifted = square(x, y, side, left=14)  # 36 of 50 columns: IoU 0.72
    found = evaluate_proposals(make_truth(SQUARES[1]), propose(shifted))
    assert found["AR@1000"] == pytest.approx(0.5)  # 0.50 to 0.70, five of ten thresholds


def test_only_the_best_scores_count():
    wrong = square(150, 150, 20)
    right = [square(*s) for s in SQUARES]
    found = evaluate_proposals(make_truth(*SQUARES), propose(*[wrong] * 9, *right), limits=(1, 10))
    assert found["AR@1"] == 0.0 and found["AR@10"] == 0.25


def test_frequencies_are_groups_of_objects():
    truth = make_truth(*SQUARES, frequencies=("f", "r"))
    found = evaluate_proposals(truth, propose(square(*SQUARES[0]), square(*SQUARES[2])))
    assert found["AR@1000/frequent"] == 1.0 and found["AR@1000/rare"] == 0.0
    assert "AR@1000/common" not in found and found["AR@1000"] == 0.5


def test_nothing_proposed_is_zero_and_bad_rows_are_told():
    assert evaluate_proposals(make_truth(*SQUARES), [])["AR@1000"] == 0.0
    for row, message in (
        ({"image_id": 2}, "has the image 2"),
        ({"image_id": 1, "score": 0.5}, "lacks segmentation"),
        ({"image_id": 1, "score": np.nan, "segmentation": square(0, 0, 5)}, "or a score"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_proposals(make_truth(*SQUARES), [row])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proposals")
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "truth.json").write_text(json.dumps(make_truth(*SQUARES)))
    (folder / "results.json").write_text(json.dumps(propose(*(square(*s) for s in SQUARES[:2]))))
    boxes = [
        {"image_id": 1, "category_id": 1, "bbox": [x, y, side, side], "score": 0.9}
        for x, y, side in SQUARES[:2]
    ]
    (folder / "boxes.json").write_text(json.dumps(boxes))
    model = build_sam("sam_debug")
    metadata = {"model": {"name": "sam_debug"}}
    save_variables(folder / "sam.safetensors", drawn_variables(model, init_sam), metadata)
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_proposals_of_a_file_and_of_a_model(folder, tmp_path, capsys):
    common = ("eval", "proposals", "--truth", folder / "truth.json", "--out", tmp_path)
    assert run(*common, "--results", folder / "results.json") == 0
    found = json.loads((tmp_path / "proposals.json").read_text())
    assert found["AR@1000"] == 0.5 and found["images"] == 1
    sam = ("--checkpoint", folder / "sam.safetensors", "--images", folder)
    assert run(*common, *sam, "--points-per-side", 4) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    scores = [row["score"] for row in rows]
    assert rows and scores == sorted(scores, reverse=True)
    assert json.loads((tmp_path / "proposals.json").read_text())["AR@1000"] >= 0
    assert run(*common) == 2
    assert "give --results" in capsys.readouterr().err


def test_boxes_become_masks(folder, tmp_path, capsys):
    common = ("eval", "boxes", "--truth", folder / "truth.json", "--images", folder)
    sam = ("--checkpoint", folder / "sam.safetensors")
    found = {}
    for name, more in (("two", ()), ("one", ("--no-refine",))):
        out = tmp_path / name
        detections = ("--detections", folder / "boxes.json", "--out", out)
        assert run(*common, *sam, *detections, *more) == 0
        rows = json.loads((out / "results.json").read_text())
        assert [row["bbox"] for row in rows] == [[*s[:2], s[2], s[2]] for s in SQUARES[:2]]
        assert all(row["score"] == 0.9 for row in rows)
        # The detector's boxes are right for half of the objects
        metrics = json.loads((out / "boxes.json").read_text())
        assert metrics["bbox/AR100"] == 0.5 and metrics["detections"] == 2
        found[name] = [row["segmentation"]["counts"] for row in rows]
    assert found["one"] != found["two"]  # the second prediction differs


@pytest.mark.parametrize(
    "row, message",
    [
        ({"image_id": 1, "category_id": 1, "score": 1, "bbox": [0, 0, 0, 5]}, "with an area"),
        ({"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}, "lacks score"),
        ({"image_id": 9, "category_id": 1, "score": 1, "bbox": [0, 0, 5, 5]}, "has no detection"),
    ],
)
def test_bad_boxes_are_told(folder, tmp_path, capsys, row, message):
    (tmp_path / "boxes.json").write_text(json.dumps([row]))
    common = ("eval", "boxes", "--truth", folder / "truth.json", "--images", folder)
    sam = ("--checkpoint", folder / "sam.safetensors", "--out", tmp_path)
    assert run(*common, *sam, "--detections", tmp_path / "boxes.json") == 2
    assert message in capsys.readouterr().err
