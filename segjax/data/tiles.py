"""Large pictures as fixed tiles, each object in exactly one of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.records import stack_objects
from segjax.images.transforms import decode_image
from segjax.masks import compute_mask_box, decode_mask, encode_mask


class Tiles:
    """A source of records cut from another source's pictures, at their own resolution.

    Tiles lie on a regular grid, evenly spread and overlapping by at least `overlap` pixels, so that an object no larger
    than the overlap is whole in some tile. An object is listed once, in the tile that holds most of it (of several,
    the one whose centre is nearest); its mask is what that tile shows. Where the tiles lie
    depends on the picture's size alone, never on its objects. Tiles without an object of their own are left out.

    Args:
      source: records (see `segjax.data.records`); every one is read once here, for its size and objects.
      tile: side in pixels; smaller pictures are one tile, as they are.
      overlap: least overlap of neighbours in pixels.
      percentiles: stretch each whole picture's intensities before it is cut, see `decode_image`.
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
        self.places: list[tuple[int, int, int, list[int]]] = []  # record, top, left, its objects
        for index in range(len(source)):
            self.places += self._places_of(index)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index, top, left, members = self.places[position]
        record = self.source[index]
        image = decode_image(
            record["image"], name=f"image {record['image_id']!r}", percentiles=self.percentiles
        )
        window = np.s_[top : top + self.tile, left : left + self.tile]
        image, objects = np.ascontiguousarray(image[window]), record["objects"]
        rows = []
        for member in members:
            mask = decode_mask(objects["rle"][member], record["height"], record["width"])[window]
            row = {name: objects[name][member] for name in ("id", "category", "crowd")}
            rows.append(
                row | {"box": compute_mask_box(mask), "area": float(mask.sum()), "rle": encode_mask(mask)}
            )
        return {
            "image": image,
            "image_id": f"{record['image_id']}@{left},{top}",
            "height": image.shape[0],
            "width": image.shape[1],
            "objects": stack_objects(rows),
        }

    def _places_of(self, index: int) -> list[tuple[int, int, int, list[int]]]:
        record = self.source[index]
        height, width = record["height"], record["width"]
        corners = [(top, left) for top in self._starts(height) for left in self._starts(width)]
        members: dict[tuple[int, int], list[int]] = {corner: [] for corner in corners}
        for member, rle in enumerate(record["objects"]["rle"]):
            y, x = np.nonzero(decode_mask(rle, height, width))

            def held(corner, y=y, x=x):
                inside = (
                    (y >= corner[0])
                    & (y < corner[0] + self.tile)
                    & (x >= corner[1])
                    & (x < corner[1] + self.tile)
                )
                centre = np.hypot(
                    y.mean() - corner[0] - self.tile / 2, x.mean() - corner[1] - self.tile / 2
                )
                return inside.sum(), -centre

            members[max(corners, key=held)].append(member)
        return [(index, *corner, own) for corner, own in members.items() if own]

    def _starts(self, length: int) -> list[int]:
        """Where tiles begin along one axis."""
        if length <= self.tile:
            return [0]
        count = -(-(length - self.overlap) // (self.tile - self.overlap))
        return [round(i * (length - self.tile) / (count - 1)) for i in range(count)]
