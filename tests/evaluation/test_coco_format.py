"""COCO's formats: ids with gaps, one result per image, and files that pycocotools reads."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from records_made import block, record_of

from segjax.data.sources.label_maps import LabelMaps
from segjax.data.sources.raw import SkipCounts
from segjax.evaluation import coco_results
from segjax.evaluation.coco import evaluate_coco
from segjax.evaluation.coco_format import build_coco_ground_truth
from segjax.evaluation.coco_results import CocoResults

HW = (40, 50)
MASK = block(HW, 2, 3, 12, 23)


def records(count=3, names="{}"):
    return [record_of([MASK], image_id=names.format(k)) for k in range(count)]


def test_ground_truth_is_a_coco_annotation_file(tmp_path, capsys):
    record = record_of(
        [MASK, block(HW, 20, 20, 30, 30)], category=[1, 0], crowd=[False, True], image_id="42"
    )
    ground_truth = build_coco_ground_truth([record], ["cup", "zebra"], [3, 90])
    (tmp_path / "annotations.json").write_text(json.dumps(ground_truth))
    coco = COCO(str(tmp_path / "annotations.json"))
    assert coco.getImgIds() == [42] and coco.getCatIds() == [3, 90]
    first, second = coco.loadAnns(coco.getAnnIds(imgIds=[42]))
    assert (first["category_id"], first["iscrowd"], second["category_id"], second["iscrowd"]) == (
        90,
        0,
        3,
        1,
    )
    assert (
        first["bbox"] == [3, 2, 20, 10] and first["area"] == 200 and first["id"] == 1
    )  # pycocotools does not accept the id 0
    np.testing.assert_array_equal(coco.annToMask(first), MASK)


def test_the_annotated_box_is_evaluated():
    record = record_of([MASK], annotated_box=np.array([[3.25, 2.5, 22.75, 11.5]], np.float32))
    assert build_coco_ground_truth([record], ["thing"])["annotations"][0]["bbox"] == [
        3.25,
        2.5,
        19.5,
        9,
    ]


def test_image_ids_are_numbers_only_if_all_are():
    assert [image["id"] for image in build_coco_ground_truth(records(2), ["x"])["images"]] == [0, 1]
    assert [
        image["id"] for image in build_coco_ground_truth(records(2, "0{}"), ["x"])["images"]
    ] == ["00", "01"]
    mixed = [*records(1), *records(1, "a{}")]
    assert [image["id"] for image in build_coco_ground_truth(mixed, ["x"])["images"]] == ["0", "a0"]
    with pytest.raises(ValueError, match="image id '0' occurs twice"):
        build_coco_ground_truth(records(1) * 2, ["x"])
    with pytest.raises(ValueError, match="as many ids, increasing"):
        build_coco_ground_truth(records(1), ["x", "y"], [9, 3])


def test_label_maps_work_like_any_source(real_data):
    """Image ids are names and object ids repeat. The ground truth as prediction has AP 1."""
    source = LabelMaps(real_data("dsb2018_nuclei"), category="nucleus")
    some = [
        record
        for record, _ in zip(source.records("stage1_test", SkipCounts()), range(2), strict=False)
    ]
    ground_truth = build_coco_ground_truth(some, source.categories, source.category_ids)
    results = CocoResults(ground_truth)
    for index, record in enumerate(some):
        objects = record["objects"]
        count = len(objects["rle"])
        results.add(index, objects["box"], np.ones(count), objects["category"], objects["rle"])
    for kind in ("bbox", "segm"):
        assert (
            evaluate_coco(ground_truth, results.rows(), kind, max_detections=(500,)).summarize()[
                f"{kind}/AP"
            ]
            == 1
        )


def make_results(order, ground_truth, extra=()):
    results = CocoResults(ground_truth)
    for index in (*order, *extra):
        results.add(
            index,
            [[3, 2, 23, 12], [0, 0, 9, 9]],
            [0.9, 0.5 + 0.1 * max(index, 0)],
            [0, 0],
            [MASK, ~MASK],
        )
    return results


def test_batch_order_padding_and_duplicates_change_nothing():
    ground_truth = build_coco_ground_truth(records(), ["thing"])
    expected = make_results((0, 1, 2), ground_truth)
    shuffled = make_results((2, 0, 1), ground_truth, extra=(-1, 1, -1))
    assert shuffled.rows() == expected.rows() and shuffled.count_images() == 3
    parts = make_results((0, 2), ground_truth)
    parts.merge(make_results((1, 2), ground_truth))
    assert parts.rows() == expected.rows()


def test_results_of_all_processes_are_gathered(monkeypatch):
    ground_truth = build_coco_ground_truth(records(), ["thing"])
    others = [
        make_results((0, 2), ground_truth),
        make_results((1, 2), ground_truth),
        CocoResults(ground_truth),
    ]
    texts = [json.dumps(list(each._rows.items())) for each in others]
    calls = []

    def allgather(value):  # of three processes, this is the second
        calls.append(value)
        if np.ndim(value) == 0:
            return np.array([len(text.encode()) for text in texts])
        rows = np.zeros((3, len(value)), np.uint8)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text.encode())] = np.frombuffer(text.encode(), np.uint8)
        return rows

    monkeypatch.setattr(coco_results.multihost_utils, "process_allgather", allgather)
    assert others[1].gather().rows() == make_results((0, 1, 2), ground_truth).rows()
    assert calls[0] == len(texts[1])


def test_one_process_gathers_its_own_results():
    ground_truth = build_coco_ground_truth(records(), ["thing"])
    assert (
        make_results((1, 0), ground_truth).gather().rows()
        == make_results((0, 1), ground_truth).rows()
    )


def test_pycocotools_loads_the_results_file(tmp_path):
    ground_truth = build_coco_ground_truth(records(), ["cup", "zebra"], [3, 90])
    results = make_results((0, 1), ground_truth)
    results.write(tmp_path / "results.json")
    coco = COCO()
    coco.dataset = ground_truth
    coco.createIndex()
    loaded = coco.loadRes(str(tmp_path / "results.json"))
    first = loaded.loadAnns(loaded.getAnnIds(imgIds=[0]))[0]
    assert first["category_id"] == 3 and first["bbox"] == [3, 2, 20, 10] and first["score"] == 0.9
    np.testing.assert_array_equal(loaded.annToMask(first), MASK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, [[0, 0, 1, 1]], [1], [0]), "image 5 of 3"),
        ((0, [[0, 0, 1, 1]], [1], [2]), "categories 2 to 2; expected 0 to 0"),
        ((0, [[0, 0, 1, 1]], [1, 2], [0]), "differ in number"),
        ((0, [[0, 0, 1, np.nan]], [1], [0]), "not finite"),
        (
            (0, [[0, 0, 1, 1]], [1], [0], np.zeros((1, 9, 9), bool)),
            r"a mask of \(9, 9\) for an image of \(40, 50\)",
        ),
    ],
)
def test_invalid_detections_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        CocoResults(build_coco_ground_truth(records(), ["thing"])).add(*arguments)
