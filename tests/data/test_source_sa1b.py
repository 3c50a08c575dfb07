"""SA-1B: tars and folders, filters, broken files, and `prepare`."""

import json
import tarfile

import numpy as np
import pytest
from raw_folders import truncate, write_image

from segjax.data.prepare import prepare
from segjax.data.records import validate_record
from segjax.data.sources.raw import SkipCounts
from segjax.data.sources.sa1b import Sa1b
from segjax.data.storage import open_source
from segjax.masks import compute_mask_box, decode_mask, encode_mask

SIZE = (20, 30)


def mask(top, bottom, left, right):
    found = np.zeros(SIZE, bool)
    found[top:bottom, left:right] = True
    return found


MASKS = [mask(2, 6, 3, 9), mask(0, 20, 4, 6), mask(0, 20, 0, 29)]  # 24, 40 and 580 of 600 pixels


def annotation(identity, inside, **fields):
    base = {
        "id": identity,
        "segmentation": {"size": list(SIZE), "counts": encode_mask(inside)},
        "area": 1,
    }
    return (
        base
        | {"predicted_iou": 0.9 + identity / 100, "stability_score": 0.96 + identity / 100}
        | fields
    )


def write(folder, name, annotations=None, text=None):
    path = write_image(folder / f"{name}.jpg", *SIZE)
    annotations = (
        [annotation(i, inside) for i, inside in enumerate(MASKS)]
        if annotations is None
        else annotations
    )
    content = {"image": {"height": SIZE[0], "width": SIZE[1]}, "annotations": annotations}
    path.with_suffix(".json").write_text(json.dumps(content) if text is None else text)
    return path


def packed(folder, tar):
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as file:
        for path in sorted(folder.iterdir()):
            file.add(path, f"./{path.name}")
    return tar


def records(raw, split="train", **options):
    skipped = SkipCounts()
    return list(Sa1b(raw, **({"held_out": 0} | options)).records(split, skipped)), skipped


def test_tars_and_folders_give_the_same_records_with_exact_boxes(tmp_path):
    for name in ("sa_1", "sa_2"):
        write(tmp_path / "loose" / "sa_000000", name)
    packed(tmp_path / "loose" / "sa_000000", tmp_path / "tars" / "sa_000000.tar")
    (loose, _), (tars, skipped) = records(tmp_path / "loose"), records(tmp_path / "tars")
    assert [r["image_id"] for r in loose + tars] == ["sa_1", "sa_2"] * 2
    assert not skipped.images and not skipped.objects
    for one, other in zip(loose, tars, strict=True):
        validate_record(one)
        assert one["image"] == other["image"] and one["objects"]["rle"] == other["objects"]["rle"]
    objects = tars[0]["objects"]
    for i, inside in enumerate(MASKS):
        np.testing.assert_array_equal(decode_mask(objects["rle"][i], *SIZE), inside)
        np.testing.assert_array_equal(objects["box"][i], compute_mask_box(inside))
        assert objects["area"][i] == inside.sum()  # counted pixels, not the number in the JSON
    np.testing.assert_allclose(objects["predicted_iou"], [0.9, 0.91, 0.92], rtol=1e-6)
    np.testing.assert_allclose(objects["stability"], [0.96, 0.97, 0.98], rtol=1e-6)


@pytest.mark.parametrize(
    "options, remaining, reason",
    [
        ({"min_area": 30}, [1, 2], "area below min_area"),
        ({"max_area_fraction": 0.9}, [0, 1], "area above max_area_fraction"),
        ({"min_iou": 0.915}, [2], "predicted_iou too low"),
        ({"min_stability": 0.965}, [1, 2], "stability too low"),
    ],
)
def test_filters(tmp_path, options, remaining, reason):
    write(tmp_path, "sa_1")
    (record,), skipped = records(tmp_path, **options)
    assert record["objects"]["id"].tolist() == remaining
    assert skipped.objects == {reason: 3 - len(remaining)}


def test_broken_files_are_counted_and_named(tmp_path):
    other = {"size": [21, 30], "counts": encode_mask(np.ones((21, 30)))}
    whole = annotation(5, MASKS[0])
    broken = [
        annotation(1, MASKS[0], segmentation=other),
        annotation(2, np.zeros(SIZE)),
        "what",
        whole,
    ]
    write(
        tmp_path,
        "sa_1",
        broken + [annotation(3, MASKS[0], segmentation={"size": list(SIZE), "counts": [600]})],
    )
    write(tmp_path, "sa_2", text="{")
    truncate(write(tmp_path, "sa_3"))
    write(tmp_path, "sa_4").with_suffix(".json").unlink()
    (record,), skipped = records(tmp_path)
    assert record["objects"]["id"].tolist() == [5]
    assert skipped.objects == {"RLE does not fit its image": 3, "mask is empty": 1}
    assert skipped.images == {
        "JSON is broken or has no annotations": 1,
        "image is truncated or not an image file": 1,
        "no JSON beside the image": 1,
    }
    assert "sa_1.jpg, mask 1" in skipped.examples["RLE does not fit its image"][0]


def test_a_truncated_tar_yields_its_complete_members(tmp_path):
    for number in range(4):
        write(tmp_path / "loose", f"sa_{number}")
    tar = packed(tmp_path / "loose", tmp_path / "tars" / "sa_000000.tar")
    truncate(tar, 0.6)
    found, skipped = records(tmp_path / "tars")
    assert 1 <= len(found) < 4 and [r["image_id"] for r in found] == [
        f"sa_{i}" for i in range(len(found))
    ]
    assert sum(skipped.images.values()) >= 1


def test_a_share_is_held_out_and_prepare_stores_all_fields(tmp_path):
    for number in range(12):
        write(tmp_path / "raw", f"sa_{number}")
    report = prepare(
        "sa1b", tmp_path / "raw", tmp_path / "out", held_out=0.3, max_area_fraction=0.9
    )
    train, val = (open_source(tmp_path / "out", split) for split in ("train", "val"))
    names = [[source[i]["image_id"] for i in range(len(source))] for source in (train, val)]
    assert len(train) + len(val) == 12 and len(val) >= 1 and not set(names[0]) & set(names[1])
    assert report.splits["train"].skipped.objects == {"area above max_area_fraction": len(train)}
    assert train[0]["objects"]["stability"].dtype == np.float32 and train.info.categories == (
        "object",
    )


def test_invalid_limits_and_folders_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*.tar and no \*.json under"):
        Sa1b(tmp_path)
    write(tmp_path, "sa_1")
    with pytest.raises(
        ValueError, match="falls into 'val' with held_out=0.001; use a larger share"
    ):
        Sa1b(tmp_path)
    with pytest.raises(ValueError, match="are shares"):
        Sa1b(tmp_path, max_area_fraction=90)
