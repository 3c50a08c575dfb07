import numpy as np
import pytest
from records_made import block, record_of

from segjax.data.examples.promptable import PromptableExample, downsample_mask
from segjax.data.synthetic.scenes import SyntheticScenes
from segjax.images.decoding import ImageError
from segjax.images.encoding import encode_png
from segjax.images.transforms import resize_longest_side
from segjax.masks import RecordError, encode_mask

RNG = np.random.default_rng


def test_shapes_and_types():
    example = PromptableExample(128, 5, 4)(SyntheticScenes("train", 3)[0], RNG(0))
    expected = {
        "image": ((128, 128, 3), np.uint8),
        "size": ((2,), np.int32),
        "masks": ((5, 32, 32), np.uint8),
        "boxes": ((5, 4), np.float32),
        "valid": ((5,), bool),
        "area": ((5,), np.float32),
        "weight": ((), np.float32),
    }
    assert {name: (np.shape(array), array.dtype) for name, array in example.items()} == expected
    placeholder = PromptableExample(128, 5, 4).placeholder()
    assert {name: (np.shape(array), array.dtype) for name, array in placeholder.items()} == expected
    assert placeholder["weight"] == 0 and not placeholder["valid"].any() and example["weight"] == 1


def test_content_lies_top_left_and_the_rest_is_zero():
    image = np.full((30, 60, 3), 200, np.uint8)
    record = record_of([block((30, 60), 10, 20, 20, 40)], image)
    example = PromptableExample(120, 2)(record, RNG(0))
    assert example["size"].tolist() == [60, 120]
    assert (example["image"][:60] == 200).all() and not example["image"][60:].any()
    np.testing.assert_array_equal(
        example["boxes"], [[40, 20, 80, 40], [0, 0, 0, 0]]
    )  # twice the size
    np.testing.assert_array_equal(example["masks"][0], block((120, 120), 20, 40, 40, 80))
    assert example["area"].tolist() == [800, 0] and example["valid"].tolist() == [True, False]


def test_encoded_and_decoded_images_give_the_same_example():
    record = SyntheticScenes("train", 3)[1]
    compressed = record | {"image": encode_png(record["image"])}
    a, b = (PromptableExample(96, 3)(each, RNG(2)) for each in (record, compressed))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_array_equal(a["image"], resize_longest_side(record["image"], 96))


def test_boxes_and_areas_match_the_mask_on_the_canvas():
    rng = RNG(1)
    options = {"scale": (0.3, 2.0), "flip": True, "quarter_turns": True}
    scenes = SyntheticScenes("train", 20)
    for index in range(20):
        example = PromptableExample(96, 4, 1, augment=options)(scenes[index], rng)
        for row in np.flatnonzero(example["valid"]):
            mask = example["masks"][row]
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(example["boxes"][row], box)
            assert example["area"][row] == mask.sum() >= 10
            height, width = example["size"]
            assert not mask[height:].any() and not mask[:, width:].any()


def test_cells_are_inside_if_at_least_half_is():
    mask = np.zeros((8, 8), bool)
    mask[0:4, 0:2] = True  # half of cell (0, 0)
    mask[4:8, 0:4] = True  # all of cell (1, 0)
    mask[4:8, 4] = True  # a quarter of cell (1, 1)
    np.testing.assert_array_equal(downsample_mask(mask, 4), [[1, 0], [1, 0]])
    np.testing.assert_array_equal(downsample_mask(mask, 1), mask)
    random = RNG(0).random((96, 96)) < 0.5
    for stride in (2, 3, 4, 16, 32):
        side = 96 // stride
        mean = random.reshape(side, stride, side, stride).mean((1, 3))
        np.testing.assert_array_equal(downsample_mask(random, stride), mean >= 0.5)


def test_an_object_that_would_vanish_keeps_its_fullest_cell():
    mask = np.zeros((8, 8), bool)
    mask[3, 3:5] = True
    mask[3:5, 5] = True  # one pixel in cell (0, 0), two in (0, 1), one in (1, 1)
    np.testing.assert_array_equal(downsample_mask(mask, 4), [[0, 1], [0, 0]])
    assert not downsample_mask(np.zeros((8, 8), bool), 4).any()


def test_crowds_and_very_small_or_large_masks_are_left_out():
    hw = (40, 40)
    masks = [
        block(hw, 0, 0, 40, 39),
        block(hw, 1, 1, 4, 4),
        block(hw, 10, 10, 30, 30),
        block(hw, 20, 0, 39, 20),
    ]
    record = record_of(masks, crowd=[False, False, False, True])
    example = PromptableExample(40, 4)(record, RNG(0))
    assert example["area"].tolist() == [400, 0, 0, 0]
    generous = PromptableExample(40, 4, min_area=1, max_area_fraction=1.0)(record, RNG(0))
    assert sorted(generous["area"].tolist()) == [0, 9, 400, 1560]


def test_an_example_without_objects_has_weight_zero():
    example = PromptableExample(40, 2)(record_of([block((40, 40), 3, 3, 5, 5)]), RNG(0))
    assert (
        example["weight"] == 0
        and not example["valid"].any()
        and example["size"].tolist() == [40, 40]
    )
    nothing = record_of([block((40, 40), 3, 3, 5, 5)])
    nothing["objects"] = {name: value[:0] for name, value in nothing["objects"].items()}
    assert PromptableExample(40, 2)(nothing, RNG(0))["weight"] == 0


def test_training_draws_subsets_and_evaluation_uses_a_fixed_one():
    hw = (40, 40)
    record = record_of([block(hw, 4 * i, 0, 4 * i + 4, 5 + i) for i in range(8)])
    train = PromptableExample(40, 2)
    drawn = {tuple(sorted(train(record, RNG(seed))["area"])) for seed in range(40)}
    assert len(drawn) > 10
    evaluate = PromptableExample(40, 2, train=False, augment={"scale": (0.1, 2.0), "flip": True})
    first, second = evaluate(record, RNG(0)), evaluate(record, RNG(1))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert first["area"].all()
    others = {tuple(evaluate(record | {"image_id": str(n)}, RNG(0))["area"]) for n in range(20)}
    assert len(others) > 5  # not always the first in the file


def test_percentiles_apply_to_training_and_evaluation():
    image = RNG(0).integers(20, 40, (40, 40, 3), np.uint8)
    record = record_of([block((40, 40), 3, 3, 15, 15)], image)
    for train in (True, False):
        example = PromptableExample(40, 1, train=train, percentiles=(1, 99))(record, RNG(0))
        assert example["image"].max() == 255 and example["image"].min() == 0


def test_padding_stays_zero_under_color_jitter():
    record = record_of([block((20, 40), 3, 3, 15, 15)])
    for seed in range(8):
        example = PromptableExample(40, 1, augment={"brightness": 0.5})(record, RNG(seed))
        assert not example["image"][20:].any()
    assert (
        len(
            {
                PromptableExample(40, 1, augment={"brightness": 0.5})(record, RNG(s))["image"].max()
                for s in range(8)
            }
        )
        > 2
    )


def test_broken_records_raise():
    good = record_of([block((40, 40), 3, 3, 15, 15)])
    with pytest.raises(ImageError, match="image 'image'.*truncated"):
        PromptableExample(40, 1)(
            good | {"image": encode_png(RNG(0).integers(0, 256, (40, 40, 3), np.uint8))[:-60]},
            RNG(0),
        )
    with pytest.raises(ImageError, match="40 x 30 pixels.*has 40 x 40"):
        PromptableExample(40, 1)(good | {"image": np.zeros((40, 30, 3), np.uint8)}, RNG(0))
    misfit = record_of([block((40, 40), 3, 3, 15, 15)])
    misfit["objects"]["rle"] = [encode_mask(np.ones((20, 20), bool))]
    with pytest.raises(RecordError, match="40 x 40"):
        PromptableExample(40, 1)(misfit, RNG(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_stride": 3}, "mask_stride 3 does not divide the canvas of 64"),
        ({"max_prompts": 0}, "must be at least 1"),
        ({"augment": {"flp": True}}, "unknown augmentation flp"),
        ({"percentiles": (99, 1)}, "low < high"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PromptableExample(**({"canvas": 64, "max_prompts": 2} | arguments))


def test_small_objects_may_be_left_out_by_their_share_of_the_image():
    image = np.zeros((40, 80, 3), np.uint8)  # content of 80 x 40 pixels on the canvas
    masks = [block((40, 80), 0, 0, 8, 8), block((40, 80), 20, 20, 30, 40)]  # 2 % and 6.25 %
    record = record_of(masks, image)
    count = lambda share: PromptableExample(80, 4, train=False, min_area_fraction=share)(
        record, RNG(0)
    )["valid"].sum()
    assert [count(share) for share in (0.0, 0.02, 0.021, 0.07)] == [2, 2, 1, 0]
