"""Label maps as people have them: TIFF, names with endings, masks without objects."""

import unicodedata

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter
from raw_folders import two_labels, write_image, write_kaggle, write_label_maps

from segjax.data.records import validate_record
from segjax.data.sources.label_maps import LabelMaps, open_nuclei
from segjax.data.sources.maps.objects import BINARY, SOFT
from segjax.data.sources.raw import SkipCounts
from segjax.masks import decode_mask


def read(folder, **options):
    skipped = SkipCounts()
    records = list(LabelMaps(folder, **options).records("train", skipped))
    for record in records:
        validate_record(record)
    return records, skipped


def write_map(folder, values, name="labels/a.png"):
    """Writes one image of the size of a map, and the map."""
    write_image(folder / "images" / "a.png", *values.shape)
    (folder / name).parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(folder / name)
    return folder


def circles(size=60):
    """Returns a mask bool [size, size] of two discs that do not touch."""
    y, x = np.mgrid[:size, :size]
    return ((y - 15) ** 2 + (x - 15) ** 2 < 100) | ((y - 42) ** 2 + (x - 42) ** 2 < 150)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "float32"]
)
@pytest.mark.parametrize("name", ["a.tif", "a_masks.tiff"])
def test_tiff_maps_give_the_masks_of_png_maps(tmp_path, dtype, name):
    labels = two_labels() if dtype != "uint8" else np.where(two_labels() == 700, 200, two_labels())
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    tifffile.imwrite(tmp_path / "labels" / name, labels.astype(dtype))
    ((record,), skipped) = read(tmp_path)
    assert record["objects"]["id"].tolist() == [1, labels.max()]
    np.testing.assert_array_equal(decode_mask(record["objects"]["rle"][0], 20, 30), labels == 1)
    assert not skipped.images and not skipped.suspicious


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_gray_maps_that_were_saved_in_color_are_read(tmp_path, mode):
    labels = np.where(two_labels() == 700, 200, two_labels()).astype(np.uint8)
    write_map(tmp_path, labels)
    Image.fromarray(labels).convert(mode).save(tmp_path / "labels" / "a.png")
    ((record,), skipped) = read(tmp_path)
    assert record["objects"]["id"].tolist() == [1, 200] and not skipped.images


def test_maps_of_fractions_are_refused(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    tifffile.imwrite(tmp_path / "labels" / "a.tif", (two_labels() / 2).astype("float32"))
    records, skipped = read(tmp_path)
    assert not records and sum(skipped.images.values()) == 1


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("images/a.png", "labels/a_mask.png"),
        ("images/a.png", "masks/a.png"),
        ("images/a_img.png", "masks/a_masks.png"),
        ("images/b/../a.png", "labels/a.PNG"),
        ("a.png", "a_masks.png"),
        ("a_img.png", "a_masks.png"),
        ("images/a.png", "images/a_label.png"),
        ("train/a.png", "train/a_masks.png"),
        (
            f"images/{unicodedata.normalize('NFC', 'café')}.png",
            f"labels/{unicodedata.normalize('NFD', 'café')}.png",
        ),
    ],
)
def test_maps_are_found_by_the_name_of_their_image(tmp_path, image, labels):
    for name in (image, labels):
        (tmp_path / name).resolve().parent.mkdir(parents=True, exist_ok=True)
    write_image((tmp_path / image).resolve())
    Image.fromarray(two_labels()).save((tmp_path / labels).resolve(), "PNG")
    ((record,), skipped) = read(tmp_path)
    assert len(record["objects"]["rle"]) == 2 and not skipped.suspicious


def test_ambiguous_and_unused_maps_are_named(tmp_path):
    write_label_maps(tmp_path, count=2)
    (tmp_path / "labels" / "a1.png").rename(tmp_path / "labels" / "c1.png")
    Image.fromarray(two_labels()).save(tmp_path / "labels" / "a0_mask.png")
    records, skipped = read(tmp_path)
    assert not records and skipped.images == {
        "several label maps have the name of the image": 1,
        "label map is missing": 1,
    }
    assert skipped.suspicious == {"label map belongs to no image": 1}
    assert "c1.png" in skipped.examples["label map belongs to no image"][0]


@pytest.mark.parametrize("white", [1, 255])
def test_binary_masks_are_reported_and_split_with_the_option(tmp_path, white):
    write_map(tmp_path, circles().astype(np.uint8) * np.uint8(white))
    ((record,), skipped) = read(tmp_path)
    assert len(record["objects"]["rle"]) == 1 and skipped.suspicious == {BINARY: 1}
    assert f"value {white} in 2 parts" in skipped.examples[BINARY][0]
    ((record,), skipped) = read(tmp_path, components=True)
    assert record["objects"]["id"].tolist() == [1, 2] and not skipped.suspicious
    np.testing.assert_array_equal(record["objects"]["box"][0], [6, 6, 25, 25])


def test_soft_edges_are_reported_and_split_at_half(tmp_path):
    soft = Image.fromarray(circles().astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1))
    write_map(tmp_path, np.asarray(soft))
    ((record,), skipped) = read(tmp_path)
    assert len(record["objects"]["rle"]) > 20 and skipped.suspicious == {SOFT: 1}
    ((record,), skipped) = read(tmp_path, components=True)
    assert len(record["objects"]["rle"]) == 2 and not skipped.suspicious
    found = np.any([decode_mask(rle, 60, 60) for rle in record["objects"]["rle"]], axis=0)
    assert np.count_nonzero(found != circles()) <= 12


def test_correct_maps_are_not_suspected(tmp_path):
    many = np.kron(np.arange(1, 257).reshape(16, 16), np.ones((4, 4))).astype(np.uint8)
    one_part = np.zeros((20, 20), np.uint8)
    one_part[5:9, 5:9] = 255
    for index, values in enumerate((many, one_part, two_labels())):
        _, skipped = read(write_map(tmp_path / str(index), values))
        assert not skipped.suspicious and not skipped.changed


def test_negative_values_are_background(tmp_path):
    labels = two_labels().astype(np.int32)
    labels[0, :5] = -1
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    tifffile.imwrite(tmp_path / "labels" / "a.tif", labels)
    ((record,), skipped) = read(tmp_path)
    assert record["objects"]["id"].tolist() == [1, 700]
    assert skipped.changed == {"label map has negative values: they count as background": 1}


def test_soft_mask_files_of_kaggles_layout_are_reported(tmp_path):
    write_kaggle(tmp_path, count=1)
    soft = np.zeros((20, 30), np.uint8)
    soft[5:9, 5:9] = 255
    soft[4, 5:9] = 90
    Image.fromarray(soft).save(tmp_path / "k0" / "masks" / "soft.png")
    skipped = SkipCounts()
    (record,) = open_nuclei(tmp_path).records("train", skipped)
    assert record["objects"]["area"].tolist()[-1] == 20
    assert skipped.suspicious == {"mask file has several gray values: all above 0 are inside": 1}
