"""Copy-paste augmentation: objects of one image on another (Ghiasi et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from segjax.data.examples.detection import DetectionExample
from segjax.data.examples.place_objects import decode_record_image, place_record, replace_masks
from segjax.data.fetch import SettingsError
from segjax.data.records import Record, has_box_only
from segjax.images.placement import place_whole_image
from segjax.images.transforms import pad_to_canvas
from segjax.masks import decode_mask

# ImageNet's mean color, which padding becomes after normalization
FILL = (124, 116, 104)


class CopyPaste:
    """Simple Copy-Paste: callable (record, rng) -> example, around another example function.

    Both images are placed on the canvas separately, each with the jitter of `example` (section 3
    of the paper uses scales of 0.1 to 2.0 and flips). Each object of the second image, but no
    crowd, is pasted with probability 0.5. Covered pixels no longer belong to the objects below.
    Edges are not blended, which the paper found to make no difference.

    Args:
      example: makes and augments examples.
      source: random access to the second images, of which the rng chooses one. It must be
        picklable for worker processes.
      probability: share of the examples that get pasted objects.

    Raises:
      ValueError: the probability lies outside 0..1.
    """

    def __init__(
        self, example: DetectionExample, source: Sequence[Mapping], *, probability: float = 1.0
    ):
        if not 0 <= probability <= 1:
            raise ValueError(
                f"data.copy_paste is the probability of pasting, in 0 .. 1, got {probability}"
            )
        self.example, self.source, self.probability = example, source, probability

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Makes the example of a record with objects of another. Raises like `example`."""
        if rng.random() >= self.probability:
            return self.example(record, rng)
        other = int(rng.integers(len(self.source)))
        below = self._place(record, rng)
        try:
            above = self._place(self.source[other], rng)
        except SettingsError:
            raise
        # The loader reports a broken record when it reads it as a first image.
        except Exception:
            above = replace_masks(below, [], [])
        chosen = rng.random(len(above["objects"]["rle"])) < 0.5
        pasted = paste(below, above, chosen, self.example.min_visible)
        placement = place_whole_image((pasted["height"], pasted["width"]))
        made = self.example.make_example(pasted, pasted["image"], placement, rng)
        return made | {"original": np.array([record["height"], record["width"]], np.int32)}

    def placeholder(self) -> dict[str, np.ndarray]:
        """Returns an example of weight 0."""
        return self.example.placeholder()

    def _place(self, record: Mapping, rng: np.random.Generator) -> Record:
        """Returns a record as it appears on the canvas."""
        image = decode_record_image(record, self.example.percentiles)
        placement = self.example.draw_placement(image.shape[:2], rng)
        return place_record(
            record, image, placement, self.example.keypoint_pairs, self.example.min_visible
        )


def paste(below: Record, above: Record, chosen: np.ndarray, min_visible: float = 0.0) -> Record:
    """Pastes chosen objects of one record on another. The top left corners coincide.

    The image grows to hold all pasted objects.

    Args:
      below: record with its image as uint8 [h, w, 3].
      above: record with its image as uint8 [h, w, 3].
      chosen: bool [G] of the objects of `above`. Crowds and objects without a mask are never
        pasted.
      min_visible: objects of `below` are dropped if a smaller share of them stays visible. Those
        that are covered completely are always dropped. Keypoints under pasted objects become
        hidden (visibility 1).
    """
    names = below["objects"].keys() & above["objects"].keys()
    chosen = chosen & ~above["objects"]["crowd"] & ~has_box_only(above["objects"])
    chosen = np.flatnonzero(chosen)
    # Size of the result
    right, bottom = above["objects"]["box"][chosen][:, 2:].max(0, initial=0).astype(int).tolist()
    size = max(below["height"], bottom), max(below["width"], right)
    # Image
    on_top = [_fit(mask, size) for mask in _decode_masks(above, chosen)]
    covered = np.any(on_top, axis=0) if on_top else np.zeros(size, bool)
    image = np.full((*size, 3), FILL, np.uint8)
    image[: below["height"], : below["width"]] = below["image"]
    image[covered] = _fit(above["image"], size)[covered]
    # Objects below that stay visible
    indices, masks = [], []
    for index, mask in enumerate(_decode_masks(below, range(len(below["objects"]["rle"])))):
        visible = _fit(mask, size) & ~covered
        if np.count_nonzero(visible) >= max(1, min_visible * np.count_nonzero(mask)):
            indices.append(index)
            masks.append(visible)
    objects = {name: _join(name, below, above, indices, chosen) for name in names - {"rle"}}
    if "keypoints" in objects:
        _hide(objects["keypoints"][: len(indices)], covered)
    merged = below | {"image": image, "objects": objects | {"rle": []}}
    return replace_masks(merged, range(len(indices) + len(chosen)), masks + on_top)


def _decode_masks(record: Record, indices: Sequence[int]) -> list[np.ndarray]:
    return [
        decode_mask(record["objects"]["rle"][index], record["height"], record["width"])
        for index in indices
    ]


def _fit(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crops or pads an array [h, w, ...] to `size` = (height, width)."""
    return pad_to_canvas(pixels[: size[0], : size[1]], size)


def _join(
    name: str, below: Record, above: Record, indices: Sequence[int], chosen: np.ndarray
) -> np.ndarray:
    return np.concatenate([below["objects"][name][list(indices)], above["objects"][name][chosen]])


def _hide(keypoints: np.ndarray, covered: np.ndarray) -> None:
    """Hides the visible keypoints [G, K, 3] that are covered. Changes the array in place."""
    height, width = covered.shape
    x = np.clip(keypoints[..., 0].astype(int), 0, width - 1)
    y = np.clip(keypoints[..., 1].astype(int), 0, height - 1)
    keypoints[..., 2] = np.where(covered[y, x] & (keypoints[..., 2] == 2), 1, keypoints[..., 2])
