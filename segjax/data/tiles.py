"""Cutting large images into fixed tiles, each object in exactly one of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.records import has_box_only, stack_objects
from segjax.images.decoding import decode_image
from segjax.masks import compute_mask_box, decode_mask_crop, encode_mask


class Tiles:
    """Source of records cut from the images of another source, at full resolution.

    Tiles lie on a regular grid, evenly spread. Neighbors overlap by at least `overlap` pixels, so
    an object no larger than that is complete in some tile. The position of tiles depends on the
    size of the image alone, never on its objects.

    Each object is listed in one tile: the one that holds most of it, and of several the one whose
    center is nearest. Its mask is the part that this tile shows. Objects that have a box alone are
    left out, and so are tiles without an object.

    Args:
      source: records, see `segjax.data.records`. Each is read once here for its size and objects.
      tile: side of the tiles in pixels. Smaller images become one tile each.
      overlap: least overlap of neighbors in pixels.
      percentiles: stretches the intensities of each complete image before it is cut, see
        `decode_image`.

    Raises:
      ValueError: the overlap is negative, or not smaller than the tile.
    """

    def __init__(
        self,
        source: Sequence[Mapping],
        tile: int,
        overlap: int = 0,
        *,
        percentiles: tuple[float, float] | None = None,
    ):
        if not 0 <= overlap < tile:
            raise ValueError(
                f"tiles of {tile} pixels cannot overlap by {overlap}; expected 0 <= overlap < tile"
            )
        self.source, self.tile, self.overlap, self.percentiles = source, tile, overlap, percentiles
        # Index and pixels of the image that was decoded last
        self._last: tuple[int, np.ndarray | None] = (-1, None)
        # Record, top, left, and indices of the objects of each tile
        self.tiles: list[tuple[int, int, int, list[int]]] = []
        for index in range(len(source)):
            self.tiles += self._cut(index)

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, tile_index: int) -> dict[str, Any]:
        index, top, left, members = self.tiles[tile_index]
        record = self.source[index]
        image = self._decode_image(index, record)
        window = np.s_[top : top + self.tile, left : left + self.tile]
        image, objects = np.ascontiguousarray(image[window]), record["objects"]
        rows = []
        # Objects, cut to the tile
        for member in members:
            mask = self._cut_mask(record, member, top, left, image.shape[:2])
            row = {name: objects[name][member] for name in ("id", "category", "crowd")}
            rows.append(
                row
                | {
                    "box": compute_mask_box(mask),
                    "area": float(mask.sum()),
                    "rle": encode_mask(mask),
                }
            )
        return {
            "image": image,
            "image_id": f"{record['image_id']}@{left},{top}",
            "height": image.shape[0],
            "width": image.shape[1],
            "objects": stack_objects(rows),
        }

    def _cut_mask(
        self, record: Mapping, member: int, top: int, left: int, hw: tuple[int, int]
    ) -> np.ndarray:
        """Decodes the part of an object's mask in the tile at (top, left), bool [*hw]."""
        rle = record["objects"]["rle"][member]
        crop, corner = decode_mask_crop(rle, record["height"], record["width"])
        # The crop in pixels of the tile
        y, x = corner[0] - top, corner[1] - left
        mask = np.zeros(hw, bool)
        shown = crop[max(0, -y) : max(0, hw[0] - y), max(0, -x) : max(0, hw[1] - x)]
        mask[max(0, y) :, max(0, x) :][: shown.shape[0], : shown.shape[1]] = shown
        return mask

    def _decode_image(self, index: int, record: Mapping[str, Any]) -> np.ndarray:
        """Decodes the image of a record, uint8 [H, W, 3]. Its tiles follow each other."""
        last, image = self._last
        if last != index:
            image = decode_image(
                record["image"], name=f"image {record['image_id']!r}", percentiles=self.percentiles
            )
            # One assignment, so that threads need no lock.
            self._last = (index, image)
        return image

    def _cut(self, index: int) -> list[tuple[int, int, int, list[int]]]:
        """Returns the tiles of a record that have an object."""
        record = self.source[index]
        height, width = record["height"], record["width"]
        corners = [(top, left) for top in self._starts(height) for left in self._starts(width)]
        members: dict[tuple[int, int], list[int]] = {corner: [] for corner in corners}
        lone = has_box_only(record["objects"])
        # Each object goes to the tile that holds most of it
        for member, rle in enumerate(record["objects"]["rle"]):
            if lone[member]:
                continue
            crop, corner = decode_mask_crop(rle, height, width)
            y, x = np.nonzero(crop)
            y, x = y + corner[0], x + corner[1]

            def rank(corner, y=y, x=x):
                top, left = corner
                inside = (y >= top) & (y < top + self.tile) & (x >= left) & (x < left + self.tile)
                distance = np.hypot(y.mean() - top - self.tile / 2, x.mean() - left - self.tile / 2)
                return inside.sum(), -distance

            members[max(corners, key=rank)].append(member)
        return [(index, *corner, own) for corner, own in members.items() if own]

    def _starts(self, length: int) -> list[int]:
        """Returns the first pixels of the tiles along one axis."""
        if length <= self.tile:
            return [0]
        count = -(-(length - self.overlap) // (self.tile - self.overlap))
        # Tiles are spread evenly, so the last one ends at the edge.
        return [round(i * (length - self.tile) / (count - 1)) for i in range(count)]
