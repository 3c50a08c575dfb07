"""Objects of one picture laid over another, each with its mask (Simple Copy-Paste, Ghiasi et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from segjax.data.examples.detection import DetectionExample
from segjax.data.examples.place_objects import decode_record_image, place_record, replace_masks
from segjax.data.loader import SettingsError
from segjax.data.records import Record
from segjax.images.placement import place_whole_image
from segjax.images.transforms import pad_to_canvas
from segjax.masks import decode_mask

FILL = (124, 116, 104)  # ImageNet's mean colour: what padding is once it is normalised


class CopyPaste:
    """Callable (record, rng) -> example; a loader's ``example_fn`` around another.

    Both pictures are placed on the canvas by themselves, with the example's own jitter (section 3 of the paper uses
    scales 0.1 to 2.0 and flips); each object of the second, but no crowd, is pasted with probability a half. What it
    covers no longer belongs to the objects below. Edges are not blended, which the paper finds to make no difference.

    Args:
      example: how examples are made and augmented.
      source: where the second picture comes from; which one, the rng decides. Picklable if the loader has workers.
      probability: how often it is done at all.
    """

    def __init__(
        self, example: DetectionExample, source: Sequence[Mapping], *, probability: float = 1.0
    ):
        if not 0 <= probability <= 1:
            raise ValueError(
                f"the probability of pasting (data.copy_paste) lies in 0 .. 1, got {probability}"
            )
        self.example, self.source, self.probability = example, source, probability

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The example of ``record`` with objects of another; raises as the example that it is made by."""
        if rng.random() >= self.probability:
            return self.example(record, rng)
        other = int(rng.integers(len(self.source)))
        below = self._placed(record, rng)
        try:
            above = self._placed(self.source[other], rng)
        except SettingsError:
            raise
        except Exception:  # the loader reports it when its own turn comes
            above = replace_masks(below, [], [])
        pasted = paste(
            below, above, rng.random(len(above["objects"]["rle"])) < 0.5, self.example.min_visible
        )
        placement = place_whole_image((pasted["height"], pasted["width"]))
        made = self.example.filled(pasted, pasted["image"], placement, rng)
        return made | {"original": np.array([record["height"], record["width"]], np.int32)}

    def placeholder(self) -> dict[str, np.ndarray]:
        """An example that counts for nothing."""
        return self.example.placeholder()

    def _placed(self, record: Mapping, rng: np.random.Generator) -> Record:
        image = decode_record_image(record, self.example.percentiles)
        placement = self.example.placement(image.shape[:2], rng)
        return place_record(
            record, image, placement, self.example.keypoint_pairs, self.example.min_visible
        )


def paste(below: Record, above: Record, chosen: np.ndarray, min_visible: float = 0.0) -> Record:
    """One record with the chosen objects of a second laid over it, both from their top left corners.

    Args:
      below, above: records with their pictures as uint8 [h, w, 3]. The result grows to hold all that is pasted.
      chosen: bool [G] of `above`; crowds are left out in any case.
      min_visible: objects of `below` of which a smaller share than this stays uncovered are dropped; those that are
        covered wholly always are. Their keypoints under what is pasted become hidden (visibility 1).
    """
    names = below["objects"].keys() & above["objects"].keys()
    chosen = np.flatnonzero(chosen & ~above["objects"]["crowd"])
    right, bottom = above["objects"]["box"][chosen][:, 2:].max(0, initial=0).astype(int).tolist()
    size = max(below["height"], bottom), max(below["width"], right)
    on_top = [_fitted(mask, size) for mask in _masks(above, chosen)]
    covered = np.any(on_top, axis=0) if on_top else np.zeros(size, bool)
    image = np.full((*size, 3), FILL, np.uint8)
    image[: below["height"], : below["width"]] = below["image"]
    image[covered] = _fitted(above["image"], size)[covered]
    kept, masks = [], []
    for index, mask in enumerate(_masks(below, range(len(below["objects"]["rle"])))):
        left = _fitted(mask, size) & ~covered
        if np.count_nonzero(left) >= max(1, min_visible * np.count_nonzero(mask)):
            kept.append(index)
            masks.append(left)
    objects = {name: _joined(name, below, above, kept, chosen) for name in names - {"rle"}}
    if "keypoints" in objects:
        _hide(objects["keypoints"][: len(kept)], covered)
    merged = below | {"image": image, "objects": objects | {"rle": []}}
    return replace_masks(merged, range(len(kept) + len(chosen)), masks + on_top)


def _masks(record: Record, indices: Sequence[int]) -> list[np.ndarray]:
    return [
        decode_mask(record["objects"]["rle"][index], record["height"], record["width"])
        for index in indices
    ]


def _fitted(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w, ...] cut or filled up with zeros to ``size``."""
    return pad_to_canvas(pixels[: size[0], : size[1]], size)


def _joined(
    name: str, below: Record, above: Record, kept: Sequence[int], chosen: np.ndarray
) -> np.ndarray:
    return np.concatenate([below["objects"][name][list(kept)], above["objects"][name][chosen]])


def _hide(keypoints: np.ndarray, covered: np.ndarray) -> None:
    """Changes keypoints [G, K, 3] in place: what was visible and is covered becomes hidden."""
    height, width = covered.shape
    x = np.clip(keypoints[..., 0].astype(int), 0, width - 1)
    y = np.clip(keypoints[..., 1].astype(int), 0, height - 1)
    keypoints[..., 2] = np.where(covered[y, x] & (keypoints[..., 2] == 2), 1, keypoints[..., 2])
