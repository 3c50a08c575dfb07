"""Copy-paste augmentation: pasted objects, the objects they hide, and dependence on the seed."""

import pickle

import numpy as np
import pytest
from records_made import block, record_of

from segjax.data.examples.copy_paste import FILL, CopyPaste, paste
from segjax.data.examples.detection import DetectionExample
from segjax.data.loader import make_loader
from segjax.data.records import validate_record
from segjax.data.synthetic.scenes import SyntheticScenes
from segjax.masks import decode_mask

RNG = np.random.default_rng
HW = (40, 60)


def gray(hw, value):
    return np.full((*hw, 3), value, np.uint8)


def masks_of(record):
    return [decode_mask(rle, record["height"], record["width"]) for rle in record["objects"]["rle"]]


def test_pasted_objects_hide_the_objects_below():
    under, gone = block(HW, 10, 10, 30, 30), block(HW, 2, 2, 5, 5)
    below = record_of(
        [under, gone], gray(HW, 50), category=[1, 2], annotated_box=np.ones((2, 4), np.float32)
    )
    small = (36, 44)
    cover, crowd = block(small, 0, 0, 20, 20), block(small, 20, 20, 36, 44)
    above = record_of(
        [cover, crowd, block(small, 30, 0, 36, 9)],
        gray(small, 200),
        category=[3, 4, 5],
        crowd=[0, 1, 0],
        annotated_box=np.ones((3, 4), np.float32),
    )
    merged = paste(below, above, np.array([True, True, False]))
    validate_record(merged)
    np.testing.assert_array_equal(masks_of(merged)[0], under & ~block(HW, 0, 0, 20, 20))
    np.testing.assert_array_equal(masks_of(merged)[1], block(HW, 0, 0, 20, 20))
    objects = merged["objects"]
    assert objects["category"].tolist() == [
        1,
        3,
    ]  # without hidden objects, the crowd and those not chosen
    assert objects["area"].tolist() == [300, 400] and "annotated_box" not in objects
    np.testing.assert_array_equal(objects["box"], [[10, 10, 30, 30], [0, 0, 20, 20]])
    assert (merged["image"][:20, :20] == 200).all() and (merged["image"][20:] == 50).all()
    picky = paste(below, above, np.array([True, False, False]), min_visible=0.8)
    assert picky["objects"]["category"].tolist() == [3]  # three quarters of the square remain


def test_the_image_grows_to_hold_pasted_objects():
    below = record_of([block((20, 30), 2, 2, 9, 9)], gray((20, 30), 50))
    above = record_of([block(HW, 30, 5, 35, 50)], gray(HW, 200))
    merged = paste(below, above, np.array([True]))
    validate_record(merged)
    assert merged["image"].shape == (35, 50, 3) and (merged["image"][25, 0] == FILL).all()
    assert (merged["image"][:20, :30] == 50).all() and (merged["image"][30:, 5:] == 200).all()
    nothing = paste(below, above, np.array([False]))
    np.testing.assert_array_equal(nothing["image"], below["image"])


def test_covered_keypoints_become_hidden():
    keypoints = np.array([[[12, 12, 2], [28, 28, 2], [0, 0, 0]]], np.float32)
    below = record_of([block(HW, 10, 10, 30, 30)], gray(HW, 50), keypoints=keypoints)
    above = record_of([block(HW, 0, 0, 20, 20)], gray(HW, 200), keypoints=keypoints)
    merged = paste(below, above, np.array([True]))
    np.testing.assert_array_equal(
        merged["objects"]["keypoints"][0], [[12, 12, 1], [28, 28, 2], [0, 0, 0]]
    )
    np.testing.assert_array_equal(merged["objects"]["keypoints"][1], keypoints[0])


def test_examples_depend_on_the_seed_and_have_the_usual_shapes():
    scenes = SyntheticScenes("train", 8)
    example = DetectionExample(
        (96, 96), 20, augment={"scale": (0.5, 1.5), "flip": True}, min_visible=0.1
    )
    pasting = CopyPaste(example, scenes)
    first, again, other = (pasting(scenes[0], RNG(seed)) for seed in (3, 3, 4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        plain = example.placeholder()[name]
        assert (np.shape(array), np.asarray(array).dtype) == (np.shape(plain), plain.dtype)
    assert not np.array_equal(first["image"], other["image"])
    counts = [pasting(scenes[0], RNG(seed))["valid"].sum() for seed in range(12)]
    alone = [example(scenes[0], RNG(seed))["valid"].sum() for seed in range(12)]
    assert np.mean(counts) > np.mean(alone) + 1
    never = CopyPaste(example, scenes, probability=0)
    assert never(scenes[0], RNG(0))["valid"].sum() <= len(scenes[0]["objects"]["rle"])
    np.testing.assert_array_equal(first["original"], (128, 128))


def test_a_broken_second_image_pastes_nothing():
    good = SyntheticScenes("train", 1)[0]
    example = DetectionExample((128, 128), 20)
    made = CopyPaste(example, [good | {"image": b"broken"}])(good, RNG(0))
    assert made["valid"].sum() == example(good, RNG(0))["valid"].sum() and made["weight"] == 1
    with pytest.raises(ValueError, match="data.copy_paste is the probability of pasting"):
        CopyPaste(example, [good], probability=2)


def test_it_works_in_a_loader_and_can_be_pickled():
    scenes = SyntheticScenes("train", 4)
    pasting = pickle.loads(pickle.dumps(CopyPaste(DetectionExample((64, 64), 9), scenes)))
    with make_loader(scenes, pasting, batch_size=2, seed=1, threads=0) as loader:
        batch = next(loader)
    assert batch["image"].shape == (2, 64, 64, 3) and batch["weight"].tolist() == [1, 1]
