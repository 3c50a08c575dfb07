"""Preparing photographs with an EXIF orientation: masks lie on their objects, or it is said."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

import segjax
from segjax.data.storage import open_source
from segjax.images.decoding import decode_image
from segjax.images.orientation import turn_back
from segjax.masks import decode_mask

HEIGHT, WIDTH = 60, 80
BOXES = {(5, 5, 20, 10): (255, 0, 0), (40, 8, 15, 20): (0, 255, 0), (10, 30, 30, 10): (0, 0, 255)}


def draw():
    """Draws one colored rectangle per object, upright."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for (x, y, width, height), color in BOXES.items():
        image[y : y + height, x : x + width] = color
    return image


def write_coco(folder, orientation, size):
    """Writes a JPEG that is stored turned, and annotations of the upright image."""
    (folder / "images").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn_back(draw(), orientation)))
    stored.save(folder / "images" / "a.jpg", exif=exif, quality=97, subsampling=0)
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": 1,
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for number, (x, y, w, h) in enumerate(BOXES)
    ]
    image = {"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]}
    content = {"images": [image], "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "box"}]
    (folder / "instances_train.json").write_text(json.dumps(content))


def masks_lie_on_objects(record):
    image = decode_image(record["image"])
    means = [
        image[decode_mask(rle, record["height"], record["width"])].mean(0)
        for rle in record["objects"]["rle"]
    ]
    return bool(np.abs(np.subtract(means, list(BOXES.values()))).max() < 40)


@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_of_turned_photographs_lie_on_their_objects(tmp_path, orientation):
    write_coco(tmp_path / "raw", orientation, (HEIGHT, WIDTH))
    report = segjax.prepare("coco", tmp_path / "raw", tmp_path / "a")
    record = open_source(tmp_path / "a", "train")[0]
    counts = report.splits["train"].skipped
    if orientation == 6:  # the size tells
        assert masks_lie_on_objects(record)
        assert counts.changed == {"image is turned upright as its EXIF orientation asks": 1}
        return
    (reason,) = counts.suspicious
    assert "EXIF orientation; its masks are taken to refer to stored pixels" in reason
    assert "--option upright=True" in str(report)
    assert not masks_lie_on_objects(record)
    segjax.prepare("coco", tmp_path / "raw", tmp_path / "b", upright=True)
    assert masks_lie_on_objects(open_source(tmp_path / "b", "train")[0])


def test_deep_tiff_files_keep_their_bits_through_prepare(tmp_path):
    """A file decodes to the same image before and after it was prepared."""
    (tmp_path / "raw").mkdir()
    deep = (draw().astype(np.uint16) * 16).transpose(2, 0, 1)
    options = dict(photometric="rgb", planarconfig="separate")
    floats = np.linspace(-5, 900, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    tifffile.imwrite(tmp_path / "raw" / "a.tif", deep, **options)
    tifffile.imwrite(tmp_path / "raw" / "b.tif", floats)
    bands = np.stack([deep[1], deep[2], deep[0], deep[0]], -1)
    tifffile.imwrite(tmp_path / "raw" / "c.tif", bands, photometric="minisblack")
    report = segjax.prepare("images", tmp_path / "raw", tmp_path / "a", held_out=0)
    a, b = open_source(tmp_path / "a", "train")
    np.testing.assert_array_equal(decode_image(a["image"]), draw())
    written = decode_image((tmp_path / "raw" / "b.tif").read_bytes(), notes=[])
    difference = decode_image(b["image"]).astype(int) - written
    assert np.abs(difference).max() <= 1 and np.abs(difference).mean() < 0.01
    assert report.splits["train"].skipped.images == {"image is of a kind that is not read": 1}
    assert "c.tif: the image has 4 bands and does not say which are its colors" in str(report)
    options = dict(held_out=0, bands=(3, 1, 2), short_side=30)
    (tmp_path / "raw" / "a.tif").unlink(), (tmp_path / "raw" / "b.tif").unlink()
    segjax.prepare("images", tmp_path / "raw", tmp_path / "b", **options)
    (c,) = open_source(tmp_path / "b", "train")
    small = decode_image(c["image"])
    assert small.shape == (30, 40, 3) and small[5, 5].tolist() == [255, 0, 0]
