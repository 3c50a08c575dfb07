"""Examples for detectors: padded boxes, categories, keypoints and masks of a fixed size."""

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
from segjax.data.fetch import SettingsError
from segjax.data.records import UNKNOWN_STUFF, has_box_only
from segjax.images.placement import Placement, place_whole_image
from segjax.images.resizing import RESIZES
from segjax.images.transforms import pad_to_canvas
from segjax.masks import decode_mask

# As in TensorFlow's Mask R-CNN for TPUs. 100 masks of 112 x 112 need 1.25 MB, and of 800 x 1333
# they would need 107 MB.
MASK_SIDE = 112


@dataclasses.dataclass
class DetectionExample:
    """Callable (record, rng) -> example for detectors. H, W = canvas, G = max_objects.

    Example fields:

      image: [H, W, 3], zeros outside the content. uint8 in training. In evaluation of the dtype of
        `resize`, which is float32 for "torchvision", see `Placement.apply_exactly`.
      size: int32 [2], height and width of the content.
      original: int32 [2], height and width of the record's image.
      weight: float32, 1, and 0 for placeholders. An image without objects counts, as background.
      dropped: int32, number of objects beyond G. Crowds are dropped first, then the smallest.

    Ground truth, zeros in unused slots:

      valid: bool [G], slots with an object.
      boxes: float32 [G, 4], x1 y1 x2 y2 in canvas pixels.
      categories: int32 [G], 0..K-1.
      crowd: bool [G], regions that are ignored.
      masks: uint8 {0, 1} [G, S, S], the mask inside each box in S x S cells, S = mask_side. Absent
        if that is 0.
      has_mask: bool [G], objects whose mask is known. Absent like `masks`.
      keypoints: float32 [G, keypoints, 3], x and y in canvas pixels (continuous, like boxes) and
        visibility. Absent if there are none.
      stuff: uint8 [H, W], class 1..S of each pixel, 0 on objects, 255 where unknown and outside
        the content. Absent if S = 0.

    `place_evaluated_image` maps predictions back to the record's image.

    Args:
      canvas: (H, W) in pixels.
      max_objects: G, slots for objects.
      short_side: of the resized image in pixels, see `place_for_detection`. 0 fills the canvas.
        `augment` overrides it.
      long_side: see `place_for_detection`.
      resize: see `place_for_detection`.
      augment: options of `Augmentation` for training, such as "scale" for large-scale jitter, or
        "short_sides" for multi-scale training. `long_side` and `resize` apply to them too.
      train: False for evaluation: the complete image without augmentation.
      mask_side: S, cells along each side of a box. 0 leaves out masks.
      min_visible: share of an object that must remain after a crop.
      min_side: boxes with a shorter side than this, in canvas pixels, are dropped.
      classes: K, to detect data with more categories. 0 skips the check.
      keypoints: number of keypoints per object.
      keypoint_pairs: (left, right) indices, which are exchanged if the image is mirrored.
      percentiles: stretches the intensities of each image, see `decode_image`.
      stuff: S, classes of stuff, whose map every record must have.

    Raises:
      ValueError: an argument is out of range.
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
    stuff: int = 0

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
                f"keypoint_pairs {self.keypoint_pairs} contain an index beyond the "
                f"{self.keypoints} keypoints"
            )
        options = dict(self.augment or {}) if self.train else {}
        size = {"long_side": self.long_side, "resize": self.resize}
        if self.short_side and options.get("scale") is None:
            size["short_sides"] = (self.short_side,)
        self.augmentation = Augmentation.from_dict(size | options)

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Makes the example of a record.

        Raises:
          ImageError: the image cannot be read.
          RecordError: a mask cannot be decoded.
          SettingsError: the record has other categories or keypoints than this example.
        """
        image = decode_record_image(record, self.percentiles)
        return self.make_example(record, image, self.draw_placement(image.shape[:2], rng), rng)

    def draw_placement(self, hw: tuple[int, int], rng: np.random.Generator) -> Placement:
        """Draws the placement of an image of `hw` = (height, width) pixels."""
        return draw_placement(hw, self.canvas, self.augmentation, rng)

    def make_example(
        self, record: Mapping, image: np.ndarray, placement: Placement, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Makes an example under a given placement.

        Args:
          record: see `segjax.data.records`.
          image: its decoded image, uint8 [h, w, 3].
          placement: of the image on the canvas.
          rng: source of randomness for colors.
        """
        # Image
        example = self.placeholder()
        if self.train:
            content = jitter_colors(placement.apply(image), self.augmentation, rng)
        else:
            content = placement.apply_exactly(image)
        example["image"] = pad_to_canvas(content, self.canvas)
        example["size"] = np.array(placement.size, np.int32)
        example["original"] = np.array([record["height"], record["width"]], np.int32)
        example["weight"] = np.float32(1)
        # Objects that are visible; the largest ones if there are too many
        objects, visible = record["objects"], self._cut_objects(record, placement)
        if self.classes and len(objects["category"]) and max(objects["category"]) >= self.classes:
            raise SettingsError(
                f"image {record['image_id']!r} has an object of class {max(objects['category'])}; "
                f"expected 0 to {self.classes - 1}: set config.model.classes to the number of "
                "classes in the data"
            )
        by_size = sorted(
            visible, key=lambda index: (objects["crowd"][index], -_area(visible[index][0]))
        )
        indices = sorted(by_size[: self.max_objects])
        count = len(indices)
        example["dropped"] = np.int32(len(visible) - count)
        # Ground truth
        box_only = has_box_only(objects)
        example["valid"][:count] = True
        example["categories"][:count] = objects["category"][indices]
        example["crowd"][:count] = objects["crowd"][indices]
        for slot, index in enumerate(indices):
            example["boxes"][slot] = visible[index][0]
            if self.mask_side:
                example["masks"][slot] = visible[index][1]
                example["has_mask"][slot] = not box_only[index]
        if self.keypoints:
            keypoints = get_keypoints(record, self.keypoints)[indices]
            example["keypoints"][:count] = place_keypoints(
                keypoints, placement, self.keypoint_pairs
            )
        if self.stuff:
            height, width = placement.size
            example["stuff"][:height, :width] = placement.apply_labels(self._get_stuff(record))
        return example

    def placeholder(self) -> dict[str, np.ndarray]:
        """Returns an example of weight 0: zeros, with the size of the canvas."""
        objects = self.max_objects
        example = {
            "image": np.zeros((*self.canvas, 3), self._pixel_dtype),
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
            example["has_mask"] = np.zeros(objects, bool)
        if self.keypoints:
            example["keypoints"] = np.zeros((objects, self.keypoints, 3), np.float32)
        if self.stuff:
            example["stuff"] = np.full(self.canvas, UNKNOWN_STUFF, np.uint8)
        return example

    @property
    def _pixel_dtype(self) -> type:
        """Returns the dtype of the images."""
        return np.uint8 if self.train else RESIZES[self.resize].dtype

    def _get_stuff(self, record: Mapping) -> np.ndarray:
        """Returns the map of stuff of a record. Raises SettingsError unless it fits."""
        if "stuff" not in record:
            raise SettingsError(
                f"image {record['image_id']!r} has no map of stuff, which the semantic branch "
                "learns: set config.model.stuff=0"
            )
        known = record["stuff"][record["stuff"] != UNKNOWN_STUFF]
        if known.size and known.max() > self.stuff:
            raise SettingsError(
                f"image {record['image_id']!r} has class {known.max()} of stuff; expected 0 to "
                f"{self.stuff}: set config.model.stuff to the number of classes in the data"
            )
        return record["stuff"]

    def _cut_objects(
        self, record: Mapping, placement: Placement
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Maps the indices of visible, large enough objects to their boxes and mask cells."""
        objects, visible = record["objects"], {}
        for index in np.flatnonzero(placement.overlaps_window(objects["box"])):
            mask = decode_mask(objects["rle"][index], record["height"], record["width"])
            annotated = objects["annotated_box"][index] if "annotated_box" in objects else None
            cut = crop_object(mask, placement, self.mask_side or 1, annotated)
            if cut is None:
                continue
            box, share, cells = cut
            if min(box[2] - box[0], box[3] - box[1]) >= self.min_side and share >= self.min_visible:
                visible[int(index)] = box, cells
        return visible


def place_evaluated_image(size: Sequence[int], original: Sequence[int]) -> Placement:
    """Returns the placement of an evaluation example.

    Its `invert_boxes` and `invert_points` map predictions to the record's image.

    Args:
      size: the example's `size`, (height, width) of the content.
      original: the example's `original`, (height, width) of the record's image.
    """
    return place_whole_image(
        tuple(int(side) for side in original), tuple(int(side) for side in size)
    )


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
