"""Tiles: each object once, complete if the overlap allows it, pixels unchanged."""

import numpy as np
import pytest

from segjax.data import tiles
from segjax.data.records import stack_objects
from segjax.data.tiles import Tiles
from segjax.masks import compute_mask_box, decode_mask, encode_mask


def record(height, width, boxes):
    """Makes a record with pixel (y, x) = (y, x, 0) mod 256, and boxes x1 y1 x2 y2 as objects."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([y, x, 0 * x], axis=-1).astype(np.uint8)
    rows = []
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        mask = np.zeros((height, width), bool)
        mask[y1:y2, x1:x2] = True
        rows.append(
            dict(
                id=number,
                box=compute_mask_box(mask),
                category=0,
                crowd=False,
                area=float(mask.sum()),
                rle=encode_mask(mask),
            )
        )
    return dict(
        image=image, image_id="image", height=height, width=width, objects=stack_objects(rows)
    )


@pytest.fixture(scope="module")
def tiled():
    rng = np.random.default_rng(0)
    corners = [(x, y) for x in range(0, 185, 23) for y in range(0, 135, 23)]
    boxes = [(x, y, x + rng.integers(4, 15), y + rng.integers(4, 15)) for x, y in corners]
    return boxes, Tiles([record(150, 200, boxes)], 64, 16)


def test_each_object_is_complete_in_one_tile(tiled):
    boxes, tiles = tiled
    found = {}
    for i in range(len(tiles)):
        piece = tiles[i]
        left, top = map(int, piece["image_id"].split("@")[1].split(","))
        for number, box in zip(piece["objects"]["id"], piece["objects"]["box"], strict=True):
            assert number not in found
            found[int(number)] = tuple(box + [left, top, left, top])
    assert found == {number: tuple(map(float, box)) for number, box in enumerate(boxes)}


def test_pixels_and_masks_move_together(tiled):
    _, tiles = tiled
    for i in range(len(tiles)):
        piece = tiles[i]
        left, top = map(int, piece["image_id"].split("@")[1].split(","))
        assert piece["image"].shape == (64, 64, 3) == (piece["height"], piece["width"], 3)
        assert piece["image"][0, 0].tolist() == [top, left, 0]
        for rle, area in zip(piece["objects"]["rle"], piece["objects"]["area"], strict=True):
            assert decode_mask(rle, 64, 64).sum() == area


def test_small_images_are_one_tile_and_empty_tiles_are_left_out():
    small = record(40, 50, [(3, 3, 9, 9)])
    tiles = Tiles([small, record(40, 50, []), record(64, 128, [(100, 3, 110, 9)])], 64, 0)
    assert [tiles[i]["image_id"] for i in range(len(tiles))] == ["image@0,0", "image@64,0"]
    assert np.array_equal(tiles[0]["image"], small["image"])


def test_an_object_larger_than_a_tile_is_cut_once():
    tiles = Tiles([record(64, 200, [(0, 10, 200, 20)])], 64, 16)
    assert len(tiles) == 1
    assert tiles[0]["objects"]["area"].tolist() == [640.0]


def test_overlap_must_be_smaller_than_the_tile():
    with pytest.raises(ValueError, match="tiles of 32 pixels cannot overlap by 32"):
        Tiles([], 32, 32)


def test_an_image_is_decoded_once_for_all_of_its_tiles(tiled, monkeypatch):
    _, tiled = tiled
    decoded = []
    decode = tiles.decode_image
    monkeypatch.setattr(
        tiles,
        "decode_image",
        lambda *args, **options: decoded.append(1) or decode(*args, **options),
    )
    cut = Tiles(tiled.source, tiled.tile, tiled.overlap)
    before = [tiled[index]["image"] for index in range(len(tiled))]
    decoded.clear()
    for index, image in enumerate(before):
        np.testing.assert_array_equal(cut[index]["image"], image)
    assert len(decoded) == len({index for index, *_ in cut.tiles}) < len(cut)
