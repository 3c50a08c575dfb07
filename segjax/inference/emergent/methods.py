"""Masks of an image by the features or the attention of a network, without training and labels."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from segjax.inference.emergent.cuts import lost, mask_cut, token_cut
from segjax.inference.emergent.features import PatchFeatures, extract_features
from segjax.inference.emergent.merging import aggregate_attention, label_pixels, merge_attention
from segjax.inference.emergent.pictures import keep_mass
from segjax.inference.emergent.recursive_cut import compute_affinity, recursive_ncut

logger = logging.getLogger(__name__)

_MERGE_SIDE = 32  # attention maps are merged on grids of at least this many cells


class EmergentMasks(NamedTuple):
    """Masks that a method found.

    Attributes:
      masks: bool [K, H, W], none of them empty.
      scores: float32 [K], see `measure_contrast`. -1..1.
    """

    masks: np.ndarray
    scores: np.ndarray


def _use_token_cut(found: PatchFeatures, tau: float | None) -> np.ndarray:
    return token_cut(found.features, found.grid, 0.2 if tau is None else tau)[0][None]


def _use_mask_cut(found: PatchFeatures, tau: float | None) -> np.ndarray:
    return mask_cut(found.features, found.grid, 0.15 if tau is None else tau)


def _use_lost(found: PatchFeatures, tau: float | None) -> np.ndarray:
    del tau
    return lost(found.features, found.grid)[0][None]


def _use_attention(found: PatchFeatures, tau: float | None) -> np.ndarray:
    if found.token_attention is None:
        raise ValueError(
            "this model has no class token whose attention makes masks; use another method, or a "
            "MAE, a CLIP or a DINO"
        )
    kept = keep_mass(jnp.asarray(found.token_attention), 0.6 if tau is None else tau)
    return kept.reshape(-1, *found.grid)


def _use_merging(found: PatchFeatures, tau: float | None) -> np.ndarray:
    repeat = max(1, -(-_MERGE_SIDE // max(found.grid)))
    target = (found.grid[0] * repeat, found.grid[1] * repeat)
    attention = aggregate_attention([jnp.asarray(found.attention)], target, [found.grid])
    thresholds = jnp.full(3, 0.9 if tau is None else tau)
    proposals, alive = merge_attention(attention, thresholds)
    labels = label_pixels(proposals, alive, found.hw)
    return _split_labels(np.asarray(labels))


def _use_recursive_cut(found: PatchFeatures, tau: float | None) -> np.ndarray:
    affinity = compute_affinity(jnp.asarray(found.features))
    labels, segments = recursive_ncut(affinity, 0.5 if tau is None else tau)
    cells = np.arange(int(segments))[:, None] == np.asarray(labels)
    maps = jnp.asarray(cells.reshape(-1, *found.grid), jnp.float32)
    return _split_labels(np.asarray(label_pixels(maps, jnp.ones(len(maps), bool), found.hw)))


# Name -> (function, whether DINOv2's attention artifacts harm it)
METHODS: dict[str, tuple[Callable[[PatchFeatures, float | None], Any], bool]] = {
    "tokencut": (_use_token_cut, True),
    "maskcut": (_use_mask_cut, True),
    "lost": (_use_lost, True),
    "attention": (_use_attention, True),
    "merge": (_use_merging, True),
    "ncut": (_use_recursive_cut, False),
}


def find_emergent_masks(
    model: nn.Module,
    variables: Mapping[str, Any],
    image: Any,
    method: str = "tokencut",
    *,
    tau: float | None = None,
    block: int = -1,
    kind: str = "keys",
    size: int | None = None,
) -> EmergentMasks:
    """Segments an image by a network that was never trained to segment.

    Example:
      model, variables = segjax.load("dino_vit_s_16", "dino_deitsmall16_pretrain.pth")
      found = find_emergent_masks(model, variables, image, "maskcut", size=480)

    Args:
      model: a SAM, a MAE, a CLIP or a DINO.
      variables: its variables.
      image: uint8 [H, W, 3].
      method: "tokencut" (one object), "maskcut" (up to three), "lost" (one), "attention" (one
        mask per head, of the class token), "merge" (all segments, by attention) or "ncut" (all
        segments, by features).
      tau: threshold of the method: lowest similarity of joined patches (0.2 for tokencut, 0.15 for
        maskcut), share of the attention (0.6), largest divergence of merged maps (0.9), or cost of
        a cut (0.5). None: these. LOST has none.
      block: see `extract_features`.
      kind: see `extract_features`.
      size: see `extract_features`.

    Returns:
      `EmergentMasks` in pixels of the image, the highest score first.

    Raises:
      ValueError: unknown method, or one that the model cannot serve. Others as `extract_features`.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    apply, harmed = METHODS[method]
    if harmed and getattr(model, "has_artifacts", False):
        logger.warning(
            "DINOv2 without registers has patches of high norm that hold global information, which "
            "harm %s; a size with _reg4, or DINO, works better",
            method,
        )
    # Features, then the method on the grid of patches
    found = extract_features(model, variables, image, kind=kind, block=block, size=size)
    masks = np.asarray(apply(found, tau), bool)
    # Masks in pixels, the clearest first
    if masks.shape[1:] != found.hw:
        masks = _enlarge(masks, found.hw)
    masks = masks[masks.any(axis=(1, 2))]
    scores = np.array([measure_contrast(found, mask) for mask in masks], np.float32)
    order = np.argsort(-scores, kind="stable")
    return EmergentMasks(masks[order], scores[order])


def measure_contrast(found: PatchFeatures, mask: np.ndarray) -> float:
    """Measures how much a mask's features resemble their mean more than those outside do.

    Args:
      found: features of the image.
      mask: bool [H, W].

    Returns:
      Mean cosine of the patches inside with the mean feature of the mask, minus that of the patches
      outside. 0 if there is no patch inside or none outside.
    """
    inside = _reduce(mask, found.grid)
    if not inside.any() or inside.all():
        return 0.0
    unit = found.features / np.maximum(np.linalg.norm(found.features, axis=1, keepdims=True), 1e-12)
    mean = unit[inside].mean(axis=0)
    cosines = unit @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
    return float(cosines[inside].mean() - cosines[~inside].mean())


def _reduce(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Returns which patches have their center in a mask, bool [n]."""
    rows, columns = (
        ((np.arange(n) + 0.5) * length / n).astype(int)
        for n, length in zip(grid, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)].reshape(-1)


def _enlarge(masks: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Returns masks of patches as masks of pixels, by the nearest patch."""
    rows, columns = (
        (np.arange(length) * n) // length for n, length in zip(masks.shape[1:], hw, strict=True)
    )
    return masks[:, rows[:, None], columns]


def _split_labels(labels: np.ndarray) -> np.ndarray:
    """Returns the mask of each label, bool [K, H, W]."""
    return np.unique(labels)[:, None, None] == labels
