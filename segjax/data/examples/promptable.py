"""From a record to the arrays a promptable segmenter trains on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from segjax.data.examples.augmentation import Augmentation, draw_placement, jitter_colors
from segjax.data.examples.place_objects import decode_record_image
from segjax.images.placement import Placement
from segjax.images.transforms import pad_to_canvas
from segjax.masks import compute_mask_box, decode_mask

_ATTEMPTS = (
    4  # random placements tried before an example is given up because its window shows no object
)


class PromptableExample:
    """Callable (record, rng) -> example; a loader's ``example_fn``. P = max_prompts, S = canvas, s = S / mask_stride.

    Example: ``image`` uint8 [S, S, 3], zeros beyond ``size`` int32 [2] (h, w); ``masks`` uint8 {0, 1} [P, s, s];
    ``boxes`` float32 [P, 4], x1 y1 x2 y2 in canvas pixels, exact for the mask at canvas resolution; ``valid`` bool
    [P]; ``area`` float32 [P], canvas pixels; ``weight`` float32, 0 where no object is left, else 1. Rows that are not
    valid are zeros.

    A cell of the mask grid is inside if at least half of its area is; an object that would vanish keeps its best cell.
    Crowds are dropped, and so are objects outside ``min_area`` .. ``max_area_fraction``. With more objects than P a
    training example takes a random subset; otherwise the subset depends on the image id alone.

    Args:
      canvas: side S in pixels.
      max_prompts: objects an example has room for.
      mask_stride: canvas pixels a mask cell is wide; divides ``canvas``.
      augment: options of `Augmentation` for training; None for none.
      train: False for evaluation: no augmentation, same objects always.
      min_area: smallest object, in canvas pixels.
      max_area_fraction: largest object, as a fraction of the content (SAM, appendix A: 90 %).
      percentiles: stretch intensities between these percentiles of each picture, see `decode_image`.
    """

    def __init__(
        self,
        canvas: int,
        max_prompts: int,
        mask_stride: int = 1,
        *,
        augment: Mapping | None = None,
        train: bool = True,
        min_area: float = 10.0,
        max_area_fraction: float = 0.9,
        percentiles: tuple[float, float] | None = None,
    ):
        if canvas < 1 or max_prompts < 1 or mask_stride < 1:
            raise ValueError(
                f"canvas, max_prompts and mask_stride must be at least 1, got {canvas}, {max_prompts}, {mask_stride}"
            )
        if canvas % mask_stride:
            raise ValueError(
                f"mask_stride {mask_stride} does not divide the canvas of {canvas} pixels"
            )
        if percentiles is not None and not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ValueError(
                f"percentiles are (low, high) with 0 <= low < high <= 100, got {tuple(percentiles)}"
            )
        self.canvas, self.max_prompts, self.mask_stride = canvas, max_prompts, mask_stride
        self.augmentation = Augmentation.from_dict(dict(augment or {})) if train else Augmentation()
        self.train, self.percentiles = train, percentiles
        self.min_area, self.max_area_fraction = min_area, max_area_fraction

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The example of ``record``; see the class. Raises ImageError or RecordError for a broken record."""
        if not self.train:
            rng = np.random.default_rng(zlib.crc32(record["image_id"].encode()))
        image = decode_record_image(record, self.percentiles)
        for _ in range(_ATTEMPTS if self.augmentation.scale else 1):
            placement = draw_placement(image.shape[:2], self.canvas, self.augmentation, rng)
            masks = self._choose_masks(record, placement, rng)
            if masks:
                break
        content = jitter_colors(placement.apply(image), self.augmentation, rng)
        example = self.placeholder()
        example["image"] = pad_to_canvas(content, self.canvas)
        example["size"] = np.array(placement.size, np.int32)
        example["weight"] = np.float32(len(masks) > 0)
        for row, mask in enumerate(masks):
            example["boxes"][row] = compute_mask_box(mask)
            example["area"][row] = np.count_nonzero(mask)
            example["valid"][row] = True
            example["masks"][row] = downsample_mask(pad_to_canvas(mask, self.canvas), self.mask_stride)
        return example

    def placeholder(self) -> dict[str, np.ndarray]:
        """An example that counts for nothing: zeros, weight 0, a size of the whole canvas."""
        side = self.canvas // self.mask_stride
        return {
            "image": np.zeros((self.canvas, self.canvas, 3), np.uint8),
            "size": np.array([self.canvas, self.canvas], np.int32),
            "masks": np.zeros((self.max_prompts, side, side), np.uint8),
            "boxes": np.zeros((self.max_prompts, 4), np.float32),
            "valid": np.zeros(self.max_prompts, bool),
            "area": np.zeros(self.max_prompts, np.float32),
            "weight": np.float32(0),
        }

    def _choose_masks(
        self, record: Mapping, placement: Placement, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Up to ``max_prompts`` placed masks bool [h, w]; decodes no more run lengths than it needs."""
        objects = record["objects"]
        candidates = np.flatnonzero(
            ~np.asarray(objects["crowd"], bool) & placement.overlaps_window(objects["box"])
        )
        largest = self.max_area_fraction * placement.size[0] * placement.size[1]
        masks = []
        for index in rng.permutation(candidates):
            mask = decode_mask(objects["rle"][index], record["height"], record["width"])
            mask = placement.apply_mask(mask)
            if max(1, self.min_area) <= np.count_nonzero(mask) <= largest:
                masks.append(mask)
            if len(masks) == self.max_prompts:
                break
        return masks


def downsample_mask(mask: np.ndarray, stride: int) -> np.ndarray:
    """Mask bool [S, S] -> uint8 {0, 1} [S / stride, S / stride]: cells of which at least half is inside.

    A mask that would vanish keeps its fullest cell (the first of equals).
    """
    if stride == 1:
        return mask.astype(np.uint8)
    # Adding strided slices is several times faster than a reduction over two short axes.
    mask = mask.astype(np.int32 if stride > 15 else np.uint8)
    rows = sum(mask[shift::stride] for shift in range(stride))
    counts = sum(rows[:, shift::stride] for shift in range(stride))
    cells = (counts >= (stride * stride + 1) // 2).astype(np.uint8)
    if not cells.any() and counts.any():
        cells.flat[np.argmax(counts)] = 1
    return cells
