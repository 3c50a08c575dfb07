"""From a record to the arrays a detector trains on: padded boxes, classes, keypoints and masks of a fixed size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from segjax.data.examples.augmentation import Augmentation, draw_placement, jitter_colors
from segjax.data.examples.place_objects import (
    crop_object,
    decode_record_image,
    get_keypoints,
    place_keypoints,
)
from segjax.data.loader import SettingsError
from segjax.images.placement import Placement, place_whole_image
from segjax.images.transforms import pad_to_canvas
from segjax.masks import decode_mask

MASK_SIDE = 112  # as in TensorFlow's Mask R-CNN for TPUs: 100 masks of 112 x 112 are 1.25 MB, of 800 x 1333 107 MB


@dataclasses.dataclass
class DetectionExample:
    """Callable (record, rng) -> example; a loader's ``example_fn``. H, W = canvas, G = max_objects.

    Example: ``image`` uint8 [H, W, 3], zeros beyond ``size`` int32 [2] (h, w); ``original`` int32 [2], height and width
    of the record's picture; ``weight`` float32, 1 (0 of a placeholder; a picture without objects counts: all of it is
    background); ``dropped`` int32, the objects there was no room for: crowds before others, then the smallest.
    The ground truth, zeros where not ``valid`` bool [G]: ``boxes`` float32 [G, 4], x1 y1 x2 y2 in canvas pixels;
    ``categories`` int32 [G], 0..K-1; ``crowd`` bool [G], regions in which nothing is right or wrong; ``masks`` uint8
    {0, 1} [G, S, S], what each box shows of its mask in S x S cells, S = mask_side (left out with 0); ``keypoints``
    float32 [G, keypoints, 3], x and y in canvas pixels (continuous, as boxes) and visibility (left out with 0).

    Answers come back to the record's picture by ``size`` and ``original``, see `place_evaluated_image`.

    Args:
      canvas: (H, W) in pixels.
      short_side, long_side, resize: how large a picture becomes where `augment` does not say, see
        `place_for_detection`; a short_side of 0: as large as the canvas holds.
      augment: options of `Augmentation` for training. "scale" is large-scale jitter, "short_sides" training on several
        scales; `long_side` and `resize` hold for them too.
      train: False for evaluation: the whole picture, no augmentation.
      min_visible: share of an object that must be left after a crop.
      min_side: boxes with a shorter side, in canvas pixels, are dropped: nothing is learnt from less than a pixel.
      classes: K, to find out that the data has more; 0 does not ask.
      keypoints: number of them; keypoint_pairs: (left, right) indices, exchanged when the picture is mirrored.
      percentiles: stretch intensities between these percentiles of each picture, see `decode_image`.
    """

    canvas: tuple[int, int]
    max_objects: int = 100
    _: dataclasses.KW_ONLY
    short_side: int = 0
    long_side: int = 0
    resize: str = "pillow"
    augment: Mapping | None = None
    train: bool = True
    mask_side: int = MASK_SIDE
    min_visible: float = 0.0
    min_side: float = 1.0
    classes: int = 0
    keypoints: int = 0
    keypoint_pairs: Sequence[tuple[int, int]] = ()
    percentiles: tuple[float, float] | None = None

    def __post_init__(self):
        self.canvas = tuple(int(side) for side in self.canvas)
        if len(self.canvas) != 2 or min(*self.canvas, self.max_objects) < 1:
            raise ValueError(
                f"canvas is (height, width) and max_objects a number, at least 1, got {self}"
            )
        if not 0 <= self.min_visible <= 1:
            raise ValueError(f"min_visible is a share of an object, 0 .. 1, got {self.min_visible}")
        if any(not 0 <= index < self.keypoints for pair in self.keypoint_pairs for index in pair):
            raise ValueError(
                f"keypoint_pairs {self.keypoint_pairs} name more than the {self.keypoints} keypoints"
            )
        options = dict(self.augment or {}) if self.train else {}
        size = {"long_side": self.long_side, "resize": self.resize}
        if self.short_side and options.get("scale") is None:
            size["short_sides"] = (self.short_side,)
        self.augmentation = Augmentation.from_dict(size | options)

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The example of ``record``; see the class.

        Raises ImageError or RecordError for a broken record, SettingsError for one that has other classes or keypoints.
        """
        image = decode_record_image(record, self.percentiles)
        return self.filled(record, image, self.placement(image.shape[:2], rng), rng)

    def placement(self, hw: tuple[int, int], rng: np.random.Generator) -> Placement:
        """Where a picture of ``hw`` pixels comes to lie."""
        return draw_placement(hw, self.canvas, self.augmentation, rng)

    def filled(
        self, record: Mapping, image: np.ndarray, placement: Placement, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The example of a record with its decoded picture, which is placed so."""
        example = self.placeholder()
        example["image"] = pad_to_canvas(
            jitter_colors(placement.apply(image), self.augmentation, rng), self.canvas
        )
        example["size"] = np.array(placement.size, np.int32)
        example["original"] = np.array([record["height"], record["width"]], np.int32)
        example["weight"] = np.float32(1)
        objects, found = record["objects"], self._objects(record, placement)
        if self.classes and len(objects["category"]) and max(objects["category"]) >= self.classes:
            raise SettingsError(
                f"image {record['image_id']!r} has an object of class {max(objects['category'])}; expected 0 to "
                f"{self.classes - 1}: set config.model.classes to the number of classes that the data has"
            )
        by_size = sorted(
            found, key=lambda index: (objects["crowd"][index], -_area(found[index][0]))
        )
        rows = sorted(by_size[: self.max_objects])
        example["dropped"] = np.int32(len(found) - len(rows))
        example["valid"][: len(rows)] = True
        example["categories"][: len(rows)] = objects["category"][rows]
        example["crowd"][: len(rows)] = objects["crowd"][rows]
        for row, index in enumerate(rows):
            example["boxes"][row] = found[index][0]
            if self.mask_side:
                example["masks"][row] = found[index][1]
        if self.keypoints:
            keypoints = get_keypoints(record, self.keypoints)[rows]
            example["keypoints"][: len(rows)] = place_keypoints(
                keypoints, placement, self.keypoint_pairs
            )
        return example

    def placeholder(self) -> dict[str, np.ndarray]:
        """An example that counts for nothing: zeros, weight 0, a size of the whole canvas."""
        objects = self.max_objects
        example = {
            "image": np.zeros((*self.canvas, 3), np.uint8),
            "size": np.array(self.canvas, np.int32),
            "original": np.array(self.canvas, np.int32),
            "weight": np.float32(0),
            "boxes": np.zeros((objects, 4), np.float32),
            "categories": np.zeros(objects, np.int32),
            "valid": np.zeros(objects, bool),
            "crowd": np.zeros(objects, bool),
            "dropped": np.int32(0),
        }
        if self.mask_side:
            example["masks"] = np.zeros((objects, self.mask_side, self.mask_side), np.uint8)
        if self.keypoints:
            example["keypoints"] = np.zeros((objects, self.keypoints, 3), np.float32)
        return example

    def _objects(
        self, record: Mapping, placement: Placement
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Index -> (box, mask cells) of the objects that can be seen and are large enough."""
        objects, found = record["objects"], {}
        for index in np.flatnonzero(placement.overlaps_window(objects["box"])):
            mask = decode_mask(objects["rle"][index], record["height"], record["width"])
            drawn = objects["annotated_box"][index] if "annotated_box" in objects else None
            cut = crop_object(mask, placement, self.mask_side or 1, drawn)
            if cut is None:
                continue
            box, share, cells = cut
            if min(box[2] - box[0], box[3] - box[1]) >= self.min_side and share >= self.min_visible:
                found[int(index)] = box, cells
        return found


def place_evaluated_image(size: Sequence[int], original: Sequence[int]) -> Placement:
    """The placement of an example for evaluation, from its `size` and `original`: its ``invert_boxes`` and
    ``invert_points`` carry answers into the record's picture."""
    return place_whole_image(tuple(int(side) for side in original), tuple(int(side) for side in size))


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
