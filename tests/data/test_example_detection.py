"""Examples for detectors: boxes, mask cells and keypoints follow the image."""

import numpy as np
import pytest
from PIL import Image
from records_made import block, record_of
from scipy import ndimage

from segjax.data.examples.detection import DetectionExample, place_evaluated_image
from segjax.data.examples.place_objects import find_left_right_pairs, rasterize_mask_in_box
from segjax.data.fetch import SettingsError
from segjax.data.loader import make_loader
from segjax.data.sources.coco import CocoFolder
from segjax.data.sources.raw import SkipCounts
from segjax.data.synthetic.scenes import SyntheticScenes
from segjax.images.decoding import ImageError
from segjax.masks import decode_mask

RNG = np.random.default_rng
JITTER = {"scale": (0.1, 2.0), "flip": True, "brightness": 0.1}


def test_shapes_and_types():
    example = DetectionExample((96, 128), 7, keypoints=3)
    expected = {
        "image": ((96, 128, 3), np.uint8),
        "size": ((2,), np.int32),
        "original": ((2,), np.int32),
        "weight": ((), np.float32),
        "boxes": ((7, 4), np.float32),
        "categories": ((7,), np.int32),
        "valid": ((7,), bool),
        "crowd": ((7,), bool),
        "dropped": ((), np.int32),
        "masks": ((7, 112, 112), np.uint8),
        "has_mask": ((7,), bool),
        "keypoints": ((7, 3, 3), np.float32),
    }
    for made in (example(SyntheticScenes("train", 3)[0], RNG(0)), example.placeholder()):
        assert {name: (np.shape(array), array.dtype) for name, array in made.items()} == expected
    without = set(DetectionExample((96, 128), mask_side=0).placeholder())
    assert not {"masks", "has_mask", "keypoints"} & without
    assert example.placeholder()["weight"] == 0


def test_boxes_and_mask_cells_of_a_doubled_image():
    mask = block((30, 60), 10, 20, 20, 40)
    mask[10:15, 20:30] = False  # its upper left quarter
    record = record_of([mask, block((30, 60), 0, 0, 30, 3)], category=[4, 2], crowd=[False, True])
    example = DetectionExample((60, 140), 3)(record, RNG(0))
    assert example["size"].tolist() == [60, 120] and example["original"].tolist() == [30, 60]
    np.testing.assert_array_equal(example["boxes"], [[40, 20, 80, 40], [0, 0, 6, 60], [0, 0, 0, 0]])
    assert example["categories"].tolist() == [4, 2, 0] and example["valid"].tolist() == [
        True,
        True,
        False,
    ]
    assert example["crowd"].tolist() == [False, True, False] and example["dropped"] == 0
    expected = np.ones((112, 112), np.uint8)
    expected[:56, :56] = 0
    np.testing.assert_array_equal(
        example["masks"], [expected, np.ones_like(expected), np.zeros_like(expected)]
    )


def test_tight_boxes_have_an_exclusive_far_edge():
    """Repeats detectron2's cases: columns 1-3 with rows 0-3, and columns 1-2 with rows 1-3."""
    masks = [block((4, 4), 0, 1, 4, 4), block((4, 4), 1, 1, 4, 3)]
    example = DetectionExample((4, 4), 2)(record_of(masks), RNG(0))
    np.testing.assert_array_equal(example["boxes"], [[1, 0, 4, 4], [1, 1, 3, 4]])


def pasted(cells, box, size):
    """Pastes mask cells into their box on a canvas of `size`; returns bool [*size]."""
    left, top, right, bottom = np.array([*np.floor(box[:2]), *np.ceil(box[2:])], int)
    y, x = np.arange(top, bottom) + 0.5, np.arange(left, right) + 0.5
    at_y = (y - box[1]) / (box[3] - box[1]) * len(cells) - 0.5
    at_x = (x - box[0]) / (box[2] - box[0]) * len(cells) - 0.5
    at = np.meshgrid(at_y, at_x, indexing="ij")
    mask = np.zeros(size, bool)
    values = ndimage.map_coordinates(cells.astype(float), at, order=1, mode="constant", cval=0)
    mask[top:bottom, left:right] = values >= 0.5
    return mask


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


def test_pasted_cells_match_the_masks_on_the_canvas():
    """Compares with masks that are resized with the image, as in promptable segmentation."""
    example = DetectionExample((96, 128), 12, augment=JITTER, min_side=6)
    found = []
    for index in range(25):
        record = SyntheticScenes("train", 25)[index]
        made = example(record, RNG(index))
        placement = example.draw_placement((128, 128), RNG(index))
        masks = [
            placement.apply_mask(decode_mask(rle, 128, 128)) for rle in record["objects"]["rle"]
        ]
        for row in np.flatnonzero(made["valid"]):
            shown = pasted(made["masks"][row], made["boxes"][row], placement.size)
            found.append(max(iou(shown, mask) for mask in masks))
    assert len(found) > 80 and np.mean(found) > 0.96 and np.quantile(found, 0.05) > 0.88


def test_round_trip_of_coco_masks_at_28_cells(real_data):
    """Pastes cells of 28 x 28 back, as detectron2's test does: mean IoU above 0.94."""
    found = []
    for record in CocoFolder(real_data("coco_cc")).records("val2017", SkipCounts()):
        objects = record["objects"]
        for index in np.flatnonzero(~objects["crowd"]):
            mask = decode_mask(objects["rle"][index], record["height"], record["width"])
            box = objects["box"][index]
            cells = rasterize_mask_in_box(mask, box, 112)
            coarse = cells.reshape(28, 4, 28, 4).mean((1, 3)) >= 0.5
            found.append(
                (
                    iou(pasted(coarse, box, mask.shape), mask),
                    iou(pasted(cells, box, mask.shape), mask),
                )
            )
        if len(found) >= 100:
            break
    coarse, fine = np.mean(found[:100], axis=0)
    assert coarse > 0.94 and fine > 0.98


def test_mirrored_masks_boxes_and_keypoints():
    mask = block((20, 40), 5, 4, 15, 12)
    mask[5:10, 4:6] = False
    keypoints = np.array([[[5.5, 6.5, 2], [8, 9, 1], [0, 0, 0], [11, 14.5, 2]]], np.float32)
    record = record_of([mask], keypoints=keypoints)
    names = ("nose", "left_hand", "right_hand", "tail")
    pairs = find_left_right_pairs(names)
    assert pairs == ((1, 2),)
    example = DetectionExample(
        (20, 40), 1, augment={"flip": True}, keypoints=4, keypoint_pairs=pairs
    )
    seen = set()
    for seed in range(8):
        rng = RNG(seed)
        flipped = example.draw_placement((20, 40), RNG(seed)).flip_x
        made = example(record, rng)
        seen.add(flipped)
        if flipped:
            np.testing.assert_array_equal(made["boxes"], [[28, 5, 36, 15]])
            # The left hand becomes a right hand. The unlabeled keypoint stays unlabeled.
            np.testing.assert_array_equal(
                made["keypoints"][0], [[34.5, 6.5, 2], [0, 0, 0], [32, 9, 1], [29, 14.5, 2]]
            )
            np.testing.assert_array_equal(
                made["masks"][0], rasterize_mask_in_box(mask, (4, 5, 12, 15), 112)[:, ::-1]
            )
        else:
            np.testing.assert_array_equal(made["keypoints"], keypoints)
    assert seen == {True, False}


def test_keypoints_outside_the_crop_become_unlabeled():
    keypoints = np.array([[[10, 10, 2], [70, 50, 2]]], np.float32)
    record = record_of([block((60, 80), 2, 2, 58, 78)], keypoints=keypoints)
    example = DetectionExample((48, 64), 1, augment={"scale": (2.0, 2.0)}, keypoints=2)
    for seed in range(6):
        placement, made = example.draw_placement((60, 80), RNG(seed)), example(record, RNG(seed))
        for point, (x, y, visibility) in zip(
            placement.transform_points(keypoints[0, :, :2]), made["keypoints"][0], strict=True
        ):
            if (point >= 0).all() and (point <= (64, 48)).all():
                np.testing.assert_allclose((x, y, visibility), (*point, 2), rtol=1e-6)
            else:
                assert (x, y, visibility) == (0, 0, 0)
    without = record_of([block((60, 80), 2, 2, 58, 78)])
    assert not example(without, RNG(0))["keypoints"].any()
    with pytest.raises(SettingsError, match="3 keypoints per object; expected 2"):
        example(
            record
            | {"objects": record["objects"] | {"keypoints": np.zeros((1, 3, 3), np.float32)}},
            RNG(0),
        )


def test_cropped_objects_have_tight_boxes_and_slivers_can_be_dropped():
    masks = [block((40, 40), 0, 0, 40, 40)]
    record = record_of(masks)
    whole = DetectionExample((20, 20), 1, augment={"scale": (2.0, 2.0)})
    made = whole(record, RNG(0))
    np.testing.assert_array_equal(
        made["boxes"], [[0, 0, 20, 20]]
    )  # a quarter of the object remains
    picky = DetectionExample((20, 20), 1, augment={"scale": (2.0, 2.0)}, min_visible=0.3)
    assert not picky(record, RNG(0))["valid"].any() and picky(record, RNG(0))["weight"] == 1
    shy = DetectionExample((20, 20), 1, augment={"scale": (2.0, 2.0)}, min_visible=0.25)
    assert shy(record, RNG(0))["valid"].all()


def test_the_annotated_box_replaces_the_box_of_the_mask():
    """Checks box and mask cells: COCO measures by the annotated box, so both follow it."""
    mask = block((40, 60), 4, 10, 24, 30)
    drawn = np.array([[10.5, 4.25, 29.5, 24.5]], np.float32)
    record = record_of([mask], annotated_box=drawn)
    made = DetectionExample((80, 120), 1, train=False)(record, RNG(0))
    np.testing.assert_allclose(made["boxes"], 2 * drawn)
    np.testing.assert_array_equal(made["masks"][0], rasterize_mask_in_box(mask, drawn[0], 112))
    mirrored = DetectionExample((40, 60), 1, augment={"flip": True})
    seed = next(seed for seed in range(9) if mirrored.draw_placement((40, 60), RNG(seed)).flip_x)
    np.testing.assert_allclose(mirrored(record, RNG(seed))["boxes"], [[30.5, 4.25, 49.5, 24.5]])
    # In a crop, the box is as tight as the rest of the mask.
    halves = DetectionExample((20, 20), 1, augment={"scale": (3.0, 3.0)})
    for seed in range(9):
        placement = halves.draw_placement((40, 60), RNG(seed))
        (x1, y1, x2, y2), (h, w) = placement.transform_boxes(drawn[0]), placement.size
        box = halves(record, RNG(seed))["boxes"][0]
        if box.any():
            np.testing.assert_allclose(
                box,
                [
                    max(x1, 0),
                    max(y1, 0),
                    min(x2, w),
                    min(y2, h, placement.transform_boxes([0, 0, 9, 24])[3]),
                ],
            )
    outside = record_of([mask], annotated_box=np.array([[10, -3, 70, 24]], np.float32))
    np.testing.assert_allclose(
        DetectionExample((40, 60), 1)(outside, RNG(0))["boxes"], [[10, 0, 60, 24]]
    )


def test_objects_smaller_than_a_pixel_are_dropped():
    masks = [block((100, 100), 10, 10, 14, 90), block((100, 100), 30, 30, 50, 50)]
    made = DetectionExample((20, 20), 4)(record_of(masks), RNG(0))  # 4 pixels become 0.8
    np.testing.assert_allclose(made["boxes"][:2], [[6, 6, 10, 10], [0, 0, 0, 0]], rtol=1e-6)
    assert made["dropped"] == 0
    kept = DetectionExample((20, 20), 4, min_side=0.5)(record_of(masks), RNG(0))
    np.testing.assert_allclose(kept["boxes"][0], [2, 2, 18, 2.8], rtol=1e-6)


def test_crowds_and_then_small_objects_are_dropped_first():
    masks = [block((50, 50), 0, 0, size, size) for size in (10, 50, 20, 30)]
    record = record_of(masks, crowd=[False, True, False, False], category=[0, 1, 2, 3])
    made = DetectionExample((50, 50), 2)(record, RNG(0))
    assert (
        made["categories"].tolist() == [2, 3] and made["dropped"] == 2 and not made["crowd"].any()
    )


def test_training_draws_a_short_side_and_evaluation_does_not():
    record = record_of([block((30, 60), 10, 20, 20, 40)])
    options = dict(canvas=(128, 128), short_side=40, long_side=110)
    train = DetectionExample(**options, augment={"short_sides": (20, 30, 60)})
    sizes = {tuple(train(record, RNG(seed))["size"]) for seed in range(20)}
    assert sizes == {(20, 40), (30, 60), (55, 110)}
    evaluation = DetectionExample(
        **options, augment={"short_sides": (20,), "flip": True}, train=False
    )
    made = [evaluation(record, RNG(seed)) for seed in range(3)]
    assert all(tuple(each["size"]) == (40, 80) for each in made)
    for name in made[0]:
        np.testing.assert_array_equal(made[0][name], made[1][name])


def test_predictions_map_back_to_the_image():
    record = record_of([block((33, 71), 10, 20, 20, 40)])
    example = DetectionExample((64, 64), 1, train=False)(record, RNG(0))
    back = place_evaluated_image(example["size"], example["original"])
    np.testing.assert_allclose(back.invert_boxes(example["boxes"]), [[20, 10, 40, 20]], rtol=1e-6)
    np.testing.assert_array_equal(
        example["image"][: example["size"][0], :64], back.apply(record["image"])
    )


def test_a_loader_adds_placeholders_and_the_index_of_each_image():
    scenes = SyntheticScenes("train", 3)
    with make_loader(
        scenes, DetectionExample((64, 64), 5), batch_size=2, train=False, threads=0
    ) as loader:
        first, last = list(loader)
    assert first["index"].tolist() == [0, 1] and last["index"].tolist() == [2, -1]
    assert last["weight"].tolist() == [1, 0] and first["masks"].shape == (2, 5, 112, 112)


def test_invalid_settings_and_broken_records_raise():
    with pytest.raises(ValueError, match="canvas is"):
        DetectionExample((0, 20))
    with pytest.raises(ValueError, match="beyond the 2 keypoints"):
        DetectionExample((20, 20), keypoints=2, keypoint_pairs=[(1, 2)])
    with pytest.raises(ValueError, match="share of an object"):
        DetectionExample((20, 20), min_visible=2)
    with pytest.raises(ValueError, match="not both"):
        DetectionExample((20, 20), augment={"scale": (1, 2), "short_sides": (3,)})
    few = DetectionExample((20, 20), classes=3)
    with pytest.raises(SettingsError, match="class 3; expected 0 to 2: set config.model.classes"):
        few(record_of([block((20, 20), 2, 2, 9, 9)], category=[3]), RNG(0))
    record = record_of([block((20, 20), 2, 2, 9, 9)], np.zeros((20, 21, 3), np.uint8))
    with pytest.raises(ImageError, match="20 x 21 pixels, but its record"):
        DetectionExample((20, 20))(record, RNG(0))


def test_images_are_resized_as_in_pillow():
    record = SyntheticScenes("train", 2)[1]
    made = DetectionExample((96, 100), 4, train=False)(record, RNG(0))
    expected = Image.fromarray(record["image"]).resize((96, 96), Image.BILINEAR)
    np.testing.assert_array_equal(made["image"][:, :96], expected)
    assert not made["image"][:, 96:].any()
