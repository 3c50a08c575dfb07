"""SA-1B: tars and folders, filters, broken files, and `prepare`."""

import gzip
import json
import os
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image
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


def test_odd_values_cost_only_their_mask(tmp_path):
    odd = [
        annotation(1, MASKS[0], id="x"),
        annotation(2, MASKS[0], id=2**70),
        annotation(3, MASKS[0], predicted_iou="high"),
        annotation(4, MASKS[0], stability_score=float("nan")),
        annotation(5, MASKS[0], segmentation={"size": 96, "counts": "P"}),
        annotation(6, MASKS[0], segmentation={"size": list(SIZE), "counts": "o" * 40 + "?"}),
        annotation(7, MASKS[0], segmentation=[1, 2, 3]),
        annotation(8, MASKS[0], predicted_iou=None, stability_score="0.5"),
    ]
    write(tmp_path, "sa_1", odd)
    (record,), skipped = records(tmp_path)
    assert record["objects"]["id"].tolist() == [8]
    assert record["objects"]["predicted_iou"] == 1 and record["objects"]["stability"] == 0.5
    assert skipped.objects == {
        "id is not a number": 2,
        "predicted_iou is not a number": 1,
        "stability_score is not a number": 1,
        "RLE does not fit its image": 3,
    }


def test_broken_tars_cost_only_themselves(tmp_path):
    write(tmp_path / "loose", "sa_1")
    tar = packed(tmp_path / "loose", tmp_path / "tars" / "good.tar")
    (tmp_path / "tars" / "empty.tar").write_bytes(b"")
    (tmp_path / "tars" / "gzip.tar").write_bytes(gzip.compress(tar.read_bytes()))
    (tmp_path / "tars" / "foreign.tar").write_bytes(b"%PDF-1.7 " * 200)
    (tmp_path / "tars" / "sizes.tar").write_bytes(tar.read_bytes()[:512].replace(b"0", b"\xff"))
    found, skipped = records(tmp_path / "tars")
    assert [record["image_id"] for record in found] == ["sa_1"]
    assert skipped.images == {
        "tar is empty": 1,
        "tar is compressed with gzip; decompress it first": 1,
        "file is not a tar": 2,
    }
    tar.unlink()
    with pytest.raises(ValueError, match="no tar in .* holds images: .*compressed with gzip"):
        records(tmp_path / "tars")


def add_member(tar, name, data=b"", **fields):
    """Adds a member whose header may contradict its data."""
    info = tarfile.TarInfo(name)
    info.size = fields.get("size", len(data))
    info.pax_headers = fields.get("pax", {})
    tar.fileobj.write(info.tobuf(tarfile.PAX_FORMAT) if info.pax_headers else info.tobuf())
    tar.fileobj.write(data + bytes(-len(data) % 512))


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"size": 2**40}, "member of the tar is longer than the tar"),
        (
            {"pax": {"GNU.sparse.size": str(3 * 2**30), "GNU.sparse.map": "0,1"}},
            "member of the tar is sparse",
        ),
    ],
    ids=["1 TiB", "sparse 3 GiB"],
)
def test_sizes_in_a_tar_are_not_believed(tmp_path, fields, reason):
    write(tmp_path / "loose", "sa_1")
    files = [tmp_path / "loose" / name for name in ("sa_1.jpg", "sa_1.json")]
    path = tmp_path / "tars" / "odd.tar"
    path.parent.mkdir()
    with path.open("wb") as file, tarfile.TarFile(fileobj=file, mode="w") as tar:
        for each in files:
            add_member(tar, each.name, each.read_bytes())
        add_member(tar, "sa_2.json", b"{}")
        add_member(tar, "sa_2.jpg", b"x", **fields)
    tracemalloc.start()
    found, skipped = records(tmp_path / "tars")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [record["image_id"] for record in found] == ["sa_1"]
    assert skipped.images == {reason: 1} and peak < 2**26


def test_a_tar_that_leads_back_to_an_earlier_member_ends(tmp_path):
    write(tmp_path / "loose", "sa_1")
    tar = packed(tmp_path / "loose", tmp_path / "tars" / "loop.tar")
    data = bytearray(tar.read_bytes())
    # The size of the first member becomes -1024, in base 256, with the right checksum.
    data[124:136] = (-1024).to_bytes(12, "big", signed=True)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    tar.write_bytes(data)
    with pytest.raises(ValueError, match="no tar in .* holds images"):
        records(tmp_path / "tars")


def test_the_annotated_size_decides_whether_an_image_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path, "sa_1")
    Image.new("RGB", SIZE).save(path, exif=exif)
    (record,), skipped = records(tmp_path)
    assert (record["height"], record["width"]) == SIZE and len(record["objects"]["rle"]) == 3
    assert skipped.changed == {"image is turned upright as its EXIF orientation asks": 1}


def test_pipes_and_unreadable_files_cost_only_themselves(tmp_path):
    write(tmp_path, "sa_1")
    os.mkfifo(tmp_path / "sa_2.jpg")
    (tmp_path / "sa_3.jpg").mkdir()
    found, skipped = records(tmp_path)
    assert [record["image_id"] for record in found] == ["sa_1"]
    assert skipped.images == {"image is not a file": 2}


@pytest.mark.slow
def test_random_damage_of_a_tar_ends_in_counts(tmp_path):
    for number in range(3):
        write(tmp_path / "loose", f"sa_{number}")
    tar = packed(tmp_path / "loose", tmp_path / "tars" / "sa_0.tar")
    whole, rng = tar.read_bytes(), np.random.default_rng(0)
    for _ in range(1500):
        data = bytearray(whole[: rng.integers(0, len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.integers(1, 20) if data else 0):
            # Headers are where damage does most.
            start = 512 * rng.integers(len(data) // 512 + 1) + rng.integers(0, 160)
            data[min(start, len(data) - 1)] = rng.integers(256)
        tar.write_bytes(data)
        try:
            found, _ = records(tmp_path / "tars")
            assert len(found) <= 3
        except ValueError as error:
            assert "no tar in" in str(error) or "none of the images" in str(error)
