"""Drawings of annotations and of training examples."""

import numpy as np
from records_made import block, record_of

from segjax.data.examples.detection import DetectionExample
from segjax.data.examples.promptable import PromptableExample
from segjax.viz import PALETTE, draw_annotation_sheet, draw_annotations, objects_of_example
from segjax.viz.annotations import CROWD_COLOR

HW = (60, 80)
GRAY = np.full((*HW, 3), 128, np.uint8)
MASK = block(HW, 20, 20, 50, 60)


def has_color(pixels, color):
    return (np.abs(pixels.astype(int) - color).max(-1) <= 2).any()


def test_masks_boxes_and_crowds_have_their_colors():
    objects = {"boxes": np.array([[20, 20, 60, 50]]), "masks": MASK[None]}
    drawn = draw_annotations(GRAY, objects)
    assert has_color(drawn, PALETTE[0]) and not has_color(drawn, CROWD_COLOR)
    np.testing.assert_array_equal(drawn[5, 5], GRAY[5, 5])
    inside = np.round(128 + 0.35 * (np.array(PALETTE[0]) - 128))
    np.testing.assert_array_equal(drawn[35, 40], inside)
    crowd = draw_annotations(GRAY, objects | {"crowd": np.array([True])})
    assert has_color(crowd, CROWD_COLOR) and not has_color(crowd, PALETTE[0])


def test_an_image_without_objects_is_unchanged_and_grows():
    empty = {"boxes": np.zeros((0, 4)), "masks": np.zeros((0, *HW), bool), "labels": []}
    np.testing.assert_array_equal(draw_annotations(GRAY, empty, ["cup"]), GRAY)
    assert draw_annotations(GRAY, empty, side=160).shape == (120, 160, 3)


def test_names_tell_objects_without_a_mask():
    objects = {"boxes": np.array([[20, 20, 60, 50]]), "labels": [0], "has_mask": [True]}
    named = draw_annotations(GRAY, objects, ["cup"], side=600)
    lone = draw_annotations(GRAY, objects | {"has_mask": [False]}, ["cup"], side=600)
    color = np.abs(lone.astype(int) - PALETTE[0]).max(-1) < 60
    wider = color.sum() - (np.abs(named.astype(int) - PALETTE[0]).max(-1) < 60).sum()
    assert wider > 200  # the tag "cup, no mask" is wider than "cup"


def test_a_sheet_has_its_images_in_a_square():
    objects = [{"boxes": np.array([[20, 20, 60, 50]]), "masks": MASK[None]}] * 3
    sheet = draw_annotation_sheet([GRAY] * 3, objects, ["one", "two", "three"], title="data")
    assert sheet.shape[1] == 2 * 256 + 3 * 10 and sheet.shape[0] > 2 * 192


def test_objects_of_examples_lie_where_the_example_has_them():
    record = record_of([MASK], np.zeros((*HW, 3), np.uint8))
    rng = np.random.default_rng(0)
    example = DetectionExample((60, 80), 3)(record, rng)
    objects = objects_of_example(example)
    np.testing.assert_array_equal(objects["masks"][0], MASK)
    assert objects["labels"].tolist() == [0] and objects["has_mask"].tolist() == [True]
    example = PromptableExample(80, 3, mask_stride=4)(record, rng)
    objects = objects_of_example(example)
    assert len(objects["masks"]) == 1
    drawn = draw_annotations(example["image"], objects)
    assert has_color(drawn[20:50, 20:60], PALETTE[0]) and not drawn[60:].any()
    assert objects_of_example({"image": GRAY})["boxes"].shape == (0, 4)
