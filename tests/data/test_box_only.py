"""Objects with a box and no mask: detectors learn the boxes, and nothing uses their masks."""

import numpy as np
from raw_folders import annotation, square, write_coco
from records_made import block, record_of

from segjax.data.examples.copy_paste import paste
from segjax.data.examples.detection import DetectionExample
from segjax.data.examples.promptable import PromptableExample
from segjax.data.prepare import prepare
from segjax.data.storage import open_source
from segjax.data.tiles import Tiles

HW = (40, 40)
RNG = np.random.default_rng
MASKS = [block(HW, 5, 5, 20, 20), block(HW, 22, 10, 38, 30)]


def record(box_only=(True, False)):
    return record_of(MASKS, box_only=np.array(box_only), image=np.zeros((*HW, 3), np.uint8))


def test_prepared_records_keep_the_flag_and_shrink(tmp_path):
    rows = [annotation(1, [], bbox=[2.5, 4, 12, 8]), annotation(2, [square(20, 10, 8)])]
    prepare("coco", write_coco(tmp_path / "raw", rows), tmp_path / "out", short_side=10)
    objects = open_source(tmp_path / "out", "train")[0]["objects"]
    assert objects["box_only"].tolist() == [True, False]
    np.testing.assert_array_equal(objects["annotated_box"][0], [1.25, 2, 7.25, 6])


def test_examples_for_prompts_leave_them_out():
    example = PromptableExample(40, 2)(record(), RNG(0))
    assert example["area"].tolist() == [320, 0]
    assert PromptableExample(40, 2)(record((True, True)), RNG(0))["weight"] == 0


def test_examples_for_detectors_have_their_boxes_and_know_of_no_mask():
    example = DetectionExample(HW, 3)(record(), RNG(0))
    assert example["valid"].tolist() == [True, True, False]
    assert example["has_mask"].tolist() == [False, True, False]
    np.testing.assert_array_equal(example["boxes"][0], [5, 5, 20, 20])
    assert DetectionExample(HW, 3)(record_of(MASKS), RNG(0))["has_mask"].sum() == 2


def test_tiles_and_copy_paste_leave_them_out():
    assert Tiles([record()], 40)[0]["objects"]["id"].tolist() == [1]
    merged = paste(record((False, False)), record(), np.array([True, True]))
    assert merged["objects"]["id"].tolist() == [0, 1] and not merged["objects"]["box_only"].any()
