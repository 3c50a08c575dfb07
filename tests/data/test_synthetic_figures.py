"""Scenes of figures: positions and visibility of joints, and access from experiments."""

import numpy as np
import pytest

from segjax.cli import main
from segjax.data.examples.detection import DetectionExample
from segjax.data.examples.place_objects import find_left_right_pairs
from segjax.data.records import validate_record
from segjax.data.splits import describe_categories, open_split
from segjax.data.storage import open_source
from segjax.data.synthetic.figures import (
    JOINTS,
    SIGMAS,
    FigureScenes,
    sample_figure,
)
from segjax.data.synthetic.kinds import get_scene_class
from segjax.data.synthetic.scenes import DIFFICULTIES, SyntheticScenes
from segjax.masks import decode_mask


@pytest.mark.parametrize("difficulty", list(FigureScenes.difficulties))
def test_joints_lie_on_visible_limbs_or_are_hidden(difficulty):
    scenes, seen = FigureScenes("train", 20, difficulty=difficulty), {0: 0, 1: 0, 2: 0}
    for index in range(len(scenes)):
        record = scenes[index]
        validate_record(record)
        objects = record["objects"]
        for rle, keypoints in zip(objects["rle"], objects["keypoints"], strict=True):
            mask = decode_mask(rle, 128, 128)
            for x, y, visibility in keypoints:
                seen[int(visibility)] += 1
                if visibility:
                    assert mask[int(y), int(x)] == (visibility == 2)
                else:
                    assert x == y == 0
    assert seen[0] >= 5 and seen[2] > 3 * seen[1]
    assert seen[1] == 0 if difficulty == "lone" else seen[1] >= 5  # nothing covers a lone figure


def test_figures_face_the_viewer():
    pairs = find_left_right_pairs(JOINTS)
    assert pairs == ((3, 4), (5, 6)) and len(SIGMAS) == len(JOINTS)
    for seed in range(50):
        joints, outlines = sample_figure(np.random.default_rng(seed))
        assert (
            np.abs(np.concatenate(outlines)).max() < 1.35
            and joints[0, 1] < joints[1, 1] < joints[2, 1]
        )
        upright = joints[2] - joints[1]  # from neck to hip
        for left, right in pairs:
            across = joints[left] - joints[right]
            assert (
                upright[1] * across[0] - upright[0] * across[1] > 0
            )  # the left one is on the right of the image


def test_a_mirrored_figure_faces_the_viewer_too():
    record = FigureScenes("train", 3)[1]
    example = DetectionExample(
        (128, 128),
        5,
        augment={"flip": True},
        keypoints=7,
        keypoint_pairs=find_left_right_pairs(JOINTS),
    )
    for seed in range(4):
        made = example(record, np.random.default_rng(seed))
        for keypoints in made["keypoints"][made["valid"]]:
            if keypoints[[1, 2, 3, 4], 2].all():
                upright, across = keypoints[2] - keypoints[1], keypoints[3] - keypoints[4]
                assert upright[1] * across[0] - upright[0] * across[1] > 0


def test_the_kind_is_an_option_of_an_experiment_and_of_prepare(tmp_path, capsys):
    scenes = dict(train_count=3, eval_count=2, size=64, difficulty="easy", seed=0)
    data = {"source": "synthetic", "scenes": scenes | {"kind": "figures"}}
    assert (
        isinstance(open_split(data, "train"), FigureScenes) and len(open_split(data, "eval")) == 2
    )
    assert (
        describe_categories(data)["categories"] == ("figure",)
        and describe_categories(data)["keypoint_names"] == JOINTS
    )
    assert type(open_split({"source": "synthetic", "scenes": scenes}, "train")) is SyntheticScenes
    out = tmp_path / "figures"
    options = ["--option", "kind=figures", "--option", "count=2", "--option", "size=64"]
    assert main(["prepare", "synthetic", "--out", str(out), *options]) == 0
    source = open_source(out, "heldout")
    assert describe_categories(
        {"source": str(out), "eval_split": "heldout"}
    ) == describe_categories(data)
    expected = FigureScenes("heldout", 2, size=64)[0]["objects"]["keypoints"]
    np.testing.assert_array_equal(source[0]["objects"]["keypoints"], expected)


def test_prepare_says_that_maps_of_stuff_are_left_out(tmp_path):
    from segjax.data.prepare import prepare

    report = prepare("synthetic", None, tmp_path / "out", splits="train", count=2, kind="panoptic")
    ((reason, details),) = report.splits["train"].skipped.changed.items()
    assert "map of stuff is left out" in reason and details


def test_unknown_kinds_and_difficulties_are_named():
    with pytest.raises(ValueError, match="there are shapes, figures"):
        get_scene_class("people")
    with pytest.raises(ValueError, match="unknown difficulty"):
        FigureScenes("train", 3, difficulty="hard")
    assert set(FigureScenes.difficulties) <= set(DIFFICULTIES)
