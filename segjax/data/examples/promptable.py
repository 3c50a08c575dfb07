"""Examples for promptable segmentation: an image and the masks of some of its objects."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from segjax.data.examples.augmentation import (
    Augmentation,
    draw_placement,
    jitter_colors,
    list_placements,
)
from segjax.data.examples.place_objects import decode_record_image
from segjax.data.records import has_box_only
from segjax.images.placement import Placement
from segjax.images.transforms import pad_to_canvas
from segjax.masks import compute_mask_box, decode_mask

# Random placements that are tried before an example without objects is accepted
_ATTEMPTS = 4


class PromptableExample:
    """Callable (record, rng) -> example for promptable segmentation.

    P = max_prompts, S = canvas, s = S / mask_stride. Example fields:

      image: uint8 [S, S, 3], zeros outside the content.
      size: int32 [2], height and width of the content.
      masks: uint8 {0, 1} [P, s, s], the ground truth.
      boxes: float32 [P, 4], x1 y1 x2 y2 in canvas pixels, exact for the mask at canvas resolution.
      area: float32 [P], canvas pixels.
      valid: bool [P], slots with an object. All other slots are zeros.
      weight: float32, 1, and 0 if there is no object.
      object: int32 [P], with `indices` alone: index of the object in the record, -1 for none.

    A mask cell is inside if at least half of its area is. An object that would vanish keeps its
    fullest cell. Crowds are dropped, objects that have a box alone, and objects outside `min_area`
    .. `max_area_fraction`. If there are more than P objects, training takes a random subset.
    Evaluation takes a subset that depends on the image id only.

    Args:
      canvas: side S in pixels.
      max_prompts: P, slots for objects.
      mask_stride: canvas pixels per mask cell, which divides `canvas`.
      augment: options of `Augmentation` for training. None for none.
      train: False for evaluation: no augmentation, and the same objects each time.
      min_area: of an object, in canvas pixels.
      max_area_fraction: of an object, as a share of the content (SAM, appendix A: 0.9).
      min_area_fraction: of an object, as a share of the content. Both limits hold.
      percentiles: stretches the intensities of each image, see `decode_image`.
      indices: add the field `object`.

    Raises:
      ValueError: an argument is out of range.
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
        min_area_fraction: float = 0.0,
        percentiles: tuple[float, float] | None = None,
        indices: bool = False,
    ):
        if canvas < 1 or max_prompts < 1 or mask_stride < 1:
            raise ValueError(
                f"canvas, max_prompts and mask_stride must be at least 1, got {canvas}, "
                f"{max_prompts}, {mask_stride}"
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
        self.train, self.percentiles, self.indices = train, percentiles, indices
        self.min_area, self.max_area_fraction = min_area, max_area_fraction
        self.min_area_fraction = min_area_fraction

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Makes the example of a record. Raises ImageError or RecordError for a broken one."""
        if not self.train:
            rng = np.random.default_rng(zlib.crc32(record["image_id"].encode()))
        image = decode_record_image(record, self.percentiles)
        # A crop may show no object: draw again
        for _ in range(_ATTEMPTS if self.augmentation.scale else 1):
            placement = draw_placement(image.shape[:2], self.canvas, self.augmentation, rng)
            chosen = self._choose_masks(record, placement, rng)
            if chosen:
                break
        # Image
        content = jitter_colors(placement.apply(image), self.augmentation, rng)
        example = self.placeholder()
        example["image"] = pad_to_canvas(content, self.canvas)
        example["size"] = np.array(placement.size, np.int32)
        example["weight"] = np.float32(len(chosen) > 0)
        # Objects
        for slot, (index, mask) in enumerate(chosen):
            if self.indices:
                example["object"][slot] = index
            example["boxes"][slot] = compute_mask_box(mask)
            example["area"][slot] = np.count_nonzero(mask)
            example["valid"][slot] = True
            example["masks"][slot] = downsample_mask(
                pad_to_canvas(mask, self.canvas), self.mask_stride
            )
        return example

    def list_images(self, record: Mapping) -> list[tuple[np.ndarray, np.ndarray]]:
        """Lists all images that `__call__` may make of a record, without its objects.

        Returns:
          (image uint8 [S, S, 3], size int32 [2]) for each placement of `list_placements`.

        Raises:
          ValueError: as `list_placements`.
          ImageError: the image cannot be decoded.
        """
        image = decode_record_image(record, self.percentiles)
        placements = list_placements(image.shape[:2], self.canvas, self.augmentation)
        return [
            (pad_to_canvas(placed.apply(image), self.canvas), np.array(placed.size, np.int32))
            for placed in placements
        ]

    def placeholder(self) -> dict[str, np.ndarray]:
        """Returns an example of weight 0: zeros, with the size of the canvas."""
        side = self.canvas // self.mask_stride
        objects = {"object": np.full(self.max_prompts, -1, np.int32)} if self.indices else {}
        return objects | {
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
    ) -> list[tuple[int, np.ndarray]]:
        """Chooses up to `max_prompts` objects under a placement, in random order.

        Only the masks that are needed are decoded.

        Returns:
          Pairs of an index and a mask, bool [h, w].
        """
        objects = record["objects"]
        unusable = np.asarray(objects["crowd"], bool) | has_box_only(objects)
        candidates = np.flatnonzero(~unusable & placement.overlaps_window(objects["box"]))
        pixels = placement.size[0] * placement.size[1]
        smallest = max(1, self.min_area, self.min_area_fraction * pixels)
        largest = self.max_area_fraction * pixels
        chosen = []
        for index in rng.permutation(candidates):
            mask = decode_mask(objects["rle"][index], record["height"], record["width"])
            mask = placement.apply_mask(mask)
            if smallest <= np.count_nonzero(mask) <= largest:
                chosen.append((int(index), mask))
            if len(chosen) == self.max_prompts:
                break
        return chosen


def downsample_mask(mask: np.ndarray, stride: int) -> np.ndarray:
    """Downsamples a mask to cells, which are inside if at least half of their pixels are.

    A mask that would vanish keeps its fullest cell, the first one of equals.

    Args:
      mask: bool [S, S].
      stride: pixels per cell, which divides S.

    Returns:
      uint8 {0, 1} [S / stride, S / stride].
    """
    if stride == 1:
        return mask.astype(np.uint8)
    # Adding strided slices is several times faster than a reduction over two short axes. Counts
    # of up to 15 x 15 pixels fit uint8.
    mask = mask.astype(np.int32 if stride > 15 else np.uint8)
    rows = sum(mask[shift::stride] for shift in range(stride))
    counts = sum(rows[:, shift::stride] for shift in range(stride))
    cells = (counts >= (stride * stride + 1) // 2).astype(np.uint8)
    if not cells.any() and counts.any():
        cells.flat[np.argmax(counts)] = 1
    return cells
