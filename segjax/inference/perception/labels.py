"""Names for masks by CLIP, without training: each mask gets the class nearest to its vector.

SAM says where objects are and not what they are; CLIP gives the second.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.images.decoding import decode_image
from segjax.inference.clip.clip import Clip, normalize_rows, softmax
from segjax.inference.clip.regions import cover_grid, encode_crops, encode_masks
from segjax.inference.numbers import check_numbers
from segjax.inference.sam.mask_records import decode_record_mask
from segjax.masks import compute_mask_box
from segjax.text.templates import parse_names

METHODS = ("auto", "attention", "crops")
# "auto": masks that touch fewer cells of CLIP's grid get a crop of their own.
FEWEST_CELLS = 4
# "auto": a CLIP with a coarser grid cannot tell objects of one image apart, so all get crops.
COARSEST_GRID = 7


class MaskLabels(NamedTuple):
    """Names of masks.

    Attributes:
      names: the most probable name of each mask, None where it is below the threshold.
      scores: float32 [N], its probability among all names.
      probabilities: float32 [N, K], of every name, in the order of `MaskLabeler.names`.
    """

    names: list[str | None]
    scores: np.ndarray
    probabilities: np.ndarray


class MaskLabeler:
    """Names masks of images.

    Example:
      labeler = MaskLabeler(segjax.Clip.load("clip_vit_b_16"), ["cup", "spoon", "table"])
      labels = labeler.label(image, masks)
      labels.names, labels.scores

    Args:
      clip: the CLIP.
      names: class names, a list or text with commas. Names such as "background" or "other" take
        the masks that show none of the classes; list them as well.
      templates: prompts of a name, see `Clip.class_vectors`.
      method: "attention" computes all masks in one pass over the image, by masked attention in the
        last block. "crops" looks at each mask by itself, and takes the mean of a crop with and one
        without its surroundings. "auto" is "attention", and "crops" for masks that touch fewer than
        4 cells of CLIP's grid, or for all if the grid has fewer than 7 x 7 cells.
      min_score: a name of lower probability is left out, 0..1.

    Raises:
      ValueError: no name, one that is empty or occurs twice, an unknown method or template, or a
        threshold outside of 0..1.
    """

    def __init__(
        self,
        clip: Clip,
        names: str | Sequence[str],
        *,
        templates: str | Sequence[str] = "photo",
        method: str = "auto",
        min_score: float = 0.0,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
        check_numbers(0, 1, min_score=min_score)
        self.clip, self.names, self.method = clip, parse_names(names), method
        self.min_score = min_score
        self.vectors = clip.class_vectors(self.names, templates=templates)

    def label(
        self, image: Any, masks: Sequence[np.ndarray], boxes: np.ndarray | None = None
    ) -> MaskLabels:
        """Names the masks of an image.

        Args:
          image: uint8 [H, W, 3].
          masks: N masks, bool [H, W]. An empty mask gets no name.
          boxes: [N, 4], x1 y1 x2 y2 in pixels, for crops. None: the boxes of the masks.

        Returns:
          `MaskLabels` of the N masks.

        Raises:
          ImageError: not an image.
          ValueError: masks of another size than the image.
        """
        pixels = decode_image(image)
        masks = [np.asarray(mask, bool) for mask in masks]
        for i, mask in enumerate(masks):
            if mask.shape != pixels.shape[:2]:
                raise ValueError(
                    f"mask {i} is {mask.shape}, the image {pixels.shape[:2]}; expected one size"
                )
        probabilities = np.zeros((len(masks), len(self.names)), np.float32)
        filled = [i for i, mask in enumerate(masks) if mask.any()]
        if filled:
            own = None if boxes is None else np.asarray(boxes, float)[filled]
            vectors = self.encode(pixels, [masks[i] for i in filled], own)
            probabilities[filled] = softmax(self.clip.scale * vectors @ self.vectors.T)
        best = probabilities.argmax(axis=1)
        scores = probabilities[np.arange(len(masks)), best]
        names = [
            self.names[k] if score > 0 and score >= self.min_score else None
            for k, score in zip(best, scores, strict=True)
        ]
        return MaskLabels(names, scores, probabilities)

    def encode(
        self, pixels: np.ndarray, masks: Sequence[np.ndarray], boxes: np.ndarray | None = None
    ) -> np.ndarray:
        """Computes the vectors of masks that are not empty, float32 [N, E], of length 1.

        Args:
          pixels: uint8 [H, W, 3].
          masks: as for `label`, none of them empty.
          boxes: as for `label`.
        """
        grid = self.clip.model.grid
        closer = np.full(len(masks), self.method == "crops")
        if self.method == "auto":
            is_coarse = min(grid) < COARSEST_GRID
            closer = np.array(
                [is_coarse or cover_grid(mask, grid).sum() < FEWEST_CELLS for mask in masks]
            )
        vectors = np.zeros((len(masks), self.clip.model.embedding), np.float32)
        if not closer.all():
            far = np.flatnonzero(~closer)
            vectors[far] = encode_masks(self.clip, pixels, [masks[i] for i in far])
        if closer.any():
            near = np.flatnonzero(closer)
            own = [masks[i] for i in near]
            around = np.stack([compute_mask_box(mask) for mask in own])
            around = around if boxes is None else boxes[near]
            both = [
                encode_crops(self.clip, pixels, around, own, expand=expand, hide=hide)
                for expand, hide in ((1.0, True), (1.2, False))
            ]
            vectors[near] = normalize_rows(np.mean(both, axis=0))
        return vectors


def label_records(
    labeler: MaskLabeler, image: Any, records: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Adds names to records of masks.

    Args:
      labeler: names and CLIP.
      image: uint8 [H, W, 3].
      records: of `SamAutomaticMaskGenerator`, or any with "segmentation".

    Returns:
      The records with "category_id" (index of the name + 1, 0 for none), "category_name" (None for
      none) and "category_score" (probability).
    """
    masks = [decode_record_mask(record["segmentation"]) for record in records]
    labels = labeler.label(image, masks)
    found = []
    for record, name, score in zip(records, labels.names, labels.scores, strict=True):
        number = 0 if name is None else labeler.names.index(name) + 1
        named = {"category_id": number, "category_name": name, "category_score": float(score)}
        found.append({**record, **named})
    return found
