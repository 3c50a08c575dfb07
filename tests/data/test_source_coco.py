"""COCO-format folders: masks compared with pycocotools, and counts of broken annotations."""

import itertools
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from raw_folders import annotation, square, truncate, write_coco, write_image

from segjax.data.records import validate_record
from segjax.data.sources.annotations.segmentations import decode_segmentation
from segjax.data.sources.coco import CocoFolder
from segjax.data.sources.raw import SkipCounts
from segjax.masks import decode_mask, encode_mask


def read(folder, split="train"):
    skipped = SkipCounts()
    return list(CocoFolder(folder).records(split, skipped)), skipped


def test_polygons_become_masks_and_parts_stay_one_object(tmp_path):
    parts = [square(2, 3, 4), square(20, 10, 5)]
    (record,), skipped = read(write_coco(tmp_path, [annotation(1, parts, area=41.0)]))
    validate_record(record)
    expected = np.zeros((20, 30), bool)
    expected[3:7, 2:6] = True
    expected[10:15, 20:25] = True
    np.testing.assert_array_equal(decode_mask(record["objects"]["rle"][0], 20, 30), expected)
    np.testing.assert_array_equal(record["objects"]["box"][0], [2, 3, 25, 15])
    assert record["image_id"] == "7" and record["objects"]["area"][0] == 41
    assert not skipped.objects


def test_compressed_and_uncompressed_rle_and_crowd(tmp_path):
    mask = np.zeros((20, 30), bool)
    mask[4:9, 1:20] = True
    runs = np.diff(
        np.concatenate([[0], np.flatnonzero(np.diff(mask.T.ravel().astype(int))) + 1, [mask.size]])
    )
    annotations = [
        annotation(1, {"size": [20, 30], "counts": encode_mask(mask)}),
        annotation(2, {"size": [20, 30], "counts": runs.tolist()}, iscrowd=1, category_id=9),
    ]
    (record,), _ = read(write_coco(tmp_path, annotations))
    objects = record["objects"]
    assert objects["rle"] == [encode_mask(mask)] * 2
    np.testing.assert_array_equal(objects["crowd"], [False, True])
    np.testing.assert_array_equal(objects["area"], [95, 95])
    np.testing.assert_array_equal(objects["category"], [0, 1])


def test_folders_with_annotations_are_splits(tmp_path):
    """Reads the layout of a Roboflow export."""
    for split in ("valid", "train"):
        write_coco(tmp_path / split, [annotation(1, [square(2, 3, 4)])])
        (tmp_path / split / "images" / "7.jpg").rename(tmp_path / split / "7.jpg")
        (tmp_path / split / "instances_train.json").rename(
            tmp_path / split / "_annotations.coco.json"
        )
    (tmp_path / "metadata.json").write_text("{}")  # not an annotation file
    assert CocoFolder(tmp_path).splits == ("train", "valid")
    (record,), skipped = read(tmp_path, "valid")
    assert record["image_id"] == "7" and not skipped.images


def test_a_split_with_a_changed_name_finds_its_images(tmp_path):
    write_coco(tmp_path, [annotation(1, [square(2, 3, 4)])], "fold-1")
    (tmp_path / "images").rename(tmp_path / "fold-1")
    (record,), skipped = read(tmp_path, "fold_1")
    assert record["image_id"] == "7" and not skipped.images
    write_coco(tmp_path, [], "fold_1")
    with pytest.raises(ValueError, match="would both be the split 'fold_1'"):
        CocoFolder(tmp_path)


def test_categories_are_contiguous_and_shared_by_splits(tmp_path):
    write_coco(tmp_path, [], "val2017")
    write_coco(tmp_path, [], "train2017")
    source = CocoFolder(tmp_path)
    assert source.splits == ("train2017", "val2017")
    assert source.categories == ("cup", "zebra") and source.category_ids == (3, 9)
    path = tmp_path / "instances_val2017.json"
    path.write_text(path.read_text().replace("cup", "mug"))
    with pytest.raises(ValueError, match="category 3 is 'mug', in another split it is 'cup'"):
        CocoFolder(tmp_path)


RLE = {"size": [20, 30], "counts": encode_mask(np.ones((20, 30)))}
BROKEN = {
    "unknown image id in the annotations": annotation(1, RLE, image_id=99),
    "unknown category id": annotation(1, RLE, category_id=4),
    "annotation is not a JSON object": [1],
    "no segmentation": annotation(1, []),
    "polygon has fewer than 3 points or a NaN": annotation(1, [[1, 1, 5, 5]]),
    "polygon is not a list of x, y pairs": annotation(1, [[1, 1, 5, 5, 2]]),
    "polygon does not fit its image": annotation(1, [square(20, 10, 25)]),
    "mask is empty": annotation(1, {"size": [20, 30], "counts": [600]}),
    "RLE does not fit its image": annotation(1, {"size": [30, 20], "counts": [600]}),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_broken_annotations_are_counted_and_named(tmp_path, reason):
    good = annotation(2, [square(2, 3, 4)])
    (record,), skipped = read(write_coco(tmp_path, [BROKEN[reason], good]))
    np.testing.assert_array_equal(record["objects"]["id"], [2])
    assert skipped.objects == {reason: 1}
    assert "instances_train.json, " in skipped.examples[reason][0]
    assert isinstance(BROKEN[reason], list) or "annotation 1 of" in skipped.examples[reason][0]


@pytest.mark.parametrize(
    "counts", [[100, 100], [300, 400], [700, -100], encode_mask(np.ones((5, 5))), "??", None]
)
def test_run_lengths_of_another_image_raise(counts):
    with pytest.raises(ValueError, match="RLE does not fit its image"):
        decode_segmentation({"size": [20, 30], "counts": counts}, 20, 30, "annotation 1")


def test_a_polygon_slightly_outside_is_clipped():
    mask = decode_segmentation([square(26, 16, 5.5)], 20, 30, "annotation 1")
    assert mask[16:, 26:].all() and mask.sum() == 16


def test_broken_images_are_counted(tmp_path):
    entries = [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 30} for i in (7, 8, 9, 10)]
    write_coco(tmp_path, [annotation(1, RLE)], images=entries)
    truncate(write_image(tmp_path / "images" / "8.jpg"))
    write_image(tmp_path / "images" / "9.jpg", height=40)
    records, skipped = read(tmp_path)
    assert [record["image_id"] for record in records] == ["7"]
    assert skipped.images == {
        "image is truncated or not an image file": 1,
        "image is not of the annotated size": 1,
        "image file is missing": 1,
    }
    assert "10.jpg" in skipped.examples["image file is missing"][0]


def test_files_in_other_formats_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no annotation JSON in"):
        CocoFolder(tmp_path)
    path = tmp_path / "instances_train.json"
    for content, message in [
        ('{"images": [', "is not JSON"),
        ('{"images": []}', "has no list 'annotations'"),
        (
            json.dumps({"images": [{"id": 1}], "annotations": [], "categories": []}),
            "'images' has no 'file_name'",
        ),
        (
            json.dumps({"images": [], "annotations": [], "categories": [{"id": "a", "name": "b"}]}),
            "no category has a whole number 'id'",
        ),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            CocoFolder(tmp_path)


def test_captions_beside_instances_are_ignored(tmp_path):
    write_coco(tmp_path, [])
    (tmp_path / "captions_train.json").write_text("{}")
    assert CocoFolder(tmp_path).splits == ("train",)


@pytest.mark.real_data
def test_real_masks_equal_pycocotools(real_data, capsys):
    folder = real_data("coco_cc")
    source, skipped = CocoFolder(folder), SkipCounts()
    oracle = COCO(str(folder / "instances_val2017.json"))
    assert len(source.categories) == 80 and source.categories[0] == "person"
    compared = 0
    for record in itertools.islice(source.records("val2017", skipped), 6):
        validate_record(record)
        objects = record["objects"]
        for index, identity in enumerate(objects["id"].tolist()):
            expected = oracle.annToMask(oracle.anns[identity])
            np.testing.assert_array_equal(
                decode_mask(objects["rle"][index], *expected.shape), expected
            )
            x, y, width, height = coco_mask.toBbox(oracle.annToRLE(oracle.anns[identity]))
            np.testing.assert_array_equal(objects["box"][index], [x, y, x + width, y + height])
            assert (
                source.category_ids[objects["category"][index]]
                == oracle.anns[identity]["category_id"]
            )
            compared += 1
    assert compared > 10 and not skipped.objects
