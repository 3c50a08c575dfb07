import pickle

import numpy as np
import pytest

from segjax.data.records import validate_record
from segjax.data.synthetic import photographs
from segjax.data.synthetic.scenes import DIFFICULTIES, MIN_VISIBLE_AREA, Difficulty, SyntheticScenes
from segjax.data.synthetic.shapes import SHAPES, fill_polygon, sample_outline
from segjax.masks import decode_mask


def masks_of(record):
    return [decode_mask(rle, record["height"], record["width"]) for rle in record["objects"]["rle"]]


def same(a, b):
    return (
        np.array_equal(a["image"], b["image"])
        and a["objects"]["rle"] == b["objects"]["rle"]
        and a["image_id"] == b["image_id"]
    )


@pytest.mark.parametrize("difficulty", list(DIFFICULTIES))
def test_records_follow_the_schema_and_describe_their_masks(difficulty):
    scenes = SyntheticScenes("train", 12, difficulty=difficulty)
    for index in range(len(scenes)):
        record = scenes[index]
        validate_record(record)
        assert record["image"].shape == (128, 128, 3) and record["image"].dtype == np.uint8
        objects = record["objects"]
        for row, mask in enumerate(masks_of(record)):
            rows, columns = np.nonzero(mask)
            assert objects["area"][row] == mask.sum() >= MIN_VISIBLE_AREA * mask.size
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(objects["box"][row], box)
            assert 0 <= objects["category"][row] < len(SHAPES)


def test_masks_are_disjoint_unless_one_is_a_part():
    scenes = SyntheticScenes("train", 60)
    nested = 0
    for index in range(len(scenes)):
        masks = masks_of(scenes[index])
        for i, a in enumerate(masks):
            for b in masks[i + 1 :]:
                overlap = (a & b).sum()
                assert overlap in (0, a.sum(), b.sum())
                nested += overlap > 0
    assert nested >= 15  # enough ambiguous clicks to learn from


def test_scenes_have_three_to_twelve_objects_of_the_documented_sizes():
    scenes = SyntheticScenes("train", 60)
    counts = [len(scenes[index]["objects"]["id"]) for index in range(len(scenes))]
    areas = np.concatenate([scenes[index]["objects"]["area"] for index in range(len(scenes))])
    assert 4 < np.mean(counts) < 8 and min(counts) >= 2 and max(counts) <= 12
    assert (
        areas.max() <= np.pi * (0.3 * 128) ** 2
    )  # within the largest radius, which blobs exceed a little
    assert 400 < np.median(areas) < 1600


def test_masks_match_the_painted_pixels():
    # With one flat object, the scene without it differs exactly on its mask, up to the
    # antialiased rim.
    plain = Difficulty(objects=(0, 0), part_probability=0)
    single = Difficulty(objects=(1, 1), texture=(0, 0), part_probability=0)
    for index in range(20):
        empty = SyntheticScenes("heldout", 20, difficulty=plain)[index]["image"].astype(int)
        record = SyntheticScenes("heldout", 20, difficulty=single)[index]
        (mask,) = masks_of(record)
        image = record["image"].astype(int)
        color = np.median(image[mask], axis=0)
        painted = (np.abs(image - color).sum(-1) <= 3) & (np.abs(image - empty).sum(-1) > 0)
        touched = (image != empty).any(-1)
        interior = mask & ~rim(mask)
        assert painted[interior].mean() > 0.99
        assert not touched[~mask & ~rim(mask)].any()


def rim(mask):
    """Returns the pixels that differ from one of their eight neighbors."""
    padded = np.pad(mask, 1, mode="edge")
    shifted = [
        padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)
    ]
    return np.any(shifted, axis=0) & ~np.all(shifted, axis=0)


def test_a_scene_depends_on_seed_split_and_index_only():
    scenes = SyntheticScenes("train", 8)
    expected = scenes[5]
    assert same(
        SyntheticScenes("train", 3000)[5], expected
    )  # not on their number, or on earlier ones
    assert same(pickle.loads(pickle.dumps(scenes))[5], expected)
    for other in (
        scenes[4],
        SyntheticScenes("train", 8, seed=1)[5],
        SyntheticScenes("heldout", 8)[5],
    ):
        assert not np.array_equal(other["image"], expected["image"])
    assert len({scenes[index]["image_id"] for index in range(8)}) == 8


def test_heldout_scenes_use_only_heldout_photographs(monkeypatch):
    asked = []
    original = photographs.load_photographs
    from segjax.data.synthetic import textures

    textures.load_scaled_photographs.cache_clear()
    textures.load_textures.cache_clear()
    monkeypatch.setattr(
        photographs, "load_photographs", lambda split: asked.append(split) or original(split)
    )
    SyntheticScenes("heldout", 1)[0]
    assert set(asked) == {"heldout"}


def test_other_sizes_keep_proportions():
    record = SyntheticScenes("train", 4, size=256)[2]
    assert record["image"].shape == (256, 256, 3)
    assert (record["objects"]["area"] >= MIN_VISIBLE_AREA * 256 * 256).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test", "count": 1}, "unknown split 'test'"),
        ({"split": "train", "count": 0}, "count must be at least 1"),
        ({"split": "train", "count": 1, "size": 8}, "at least 32 pixels, got 8"),
        ({"split": "train", "count": 1, "difficulty": "hrad"}, "unknown difficulty 'hrad'.*easy"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticScenes(**arguments)


def test_index_beyond_the_end():
    with pytest.raises(IndexError, match="scene 3 of 3"):
        SyntheticScenes("train", 3)[3]
    assert len(list(SyntheticScenes("train", 3))) == 3


def test_filled_polygons_have_their_exact_area():
    rectangle = np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 45.0], [10.0, 45.0]])
    drawn = fill_polygon(rectangle, 64)
    expected = np.zeros((64, 64), bool)
    expected[20:45, 10:30] = True
    np.testing.assert_array_equal(drawn.mask, expected)
    rng = np.random.default_rng(0)
    for kind in SHAPES:
        points = sample_outline(rng, kind, 20.0) + 32
        x, y = points.T
        shoelace = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        drawn = fill_polygon(points, 64)
        assert abs(drawn.mask.sum() / shoelace - 1) < 0.06, kind
        x1, y1, x2, y2 = drawn.box
        assert drawn.alpha[y1:y2, x1:x2].sum() == pytest.approx(drawn.alpha.sum())
    with pytest.raises(ValueError, match="unknown shape 'cube'"):
        sample_outline(rng, "cube", 1.0)
