"""Classes of pixels by CLIP's patches (MaskCLIP, SCLIP), and their sharpening by masks."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.image import resize

from segjax.images.decoding import decode_image
from segjax.images.squares import fit_shorter_side
from segjax.inference.clip.clip import Clip, normalize_rows, softmax

METHODS = {"maskclip": "values", "sclip": "self_similarity"}
# Factor of cosines before the softmax in SCLIP's code. CLIP's own 100 is for whole images.
SCALE = 40.0


@functools.partial(jax.jit, static_argnums=(0, 3))
def _describe(model: Any, variables: Any, images: jax.Array, dense: str) -> jax.Array:
    return model.apply(variables, images, dense, method="describe_patches")


def classify_pixels(
    clip: Clip,
    image: Any,
    vectors: np.ndarray,
    *,
    method: str = "sclip",
    shorter_side: int | None = None,
    stride: float = 0.5,
) -> np.ndarray:
    """Computes the probability of each class in each pixel.

    CLIP sees square windows of its canvas that slide over the image. The last block describes each
    patch by itself instead of the whole window. MaskCLIP (arXiv 2112.01071) keeps the values of a
    patch, SCLIP (arXiv 2312.01597) attends to patches that are similar; residual and MLP stay, as
    in the released code of both.

    Args:
      clip: the CLIP.
      image: uint8 [H, W, 3].
      vectors: float32 [K, E], of the classes, see `Clip.class_vectors`.
      method: "maskclip" or "sclip".
      shorter_side: the image is resized to it, in pixels. None: 1.5 canvases, as SCLIP does.
      stride: distance of windows, in canvases.

    Returns:
      float32 [H, W, K].

    Raises:
      ValueError: unknown method, or a stride outside of (0, 1].
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    if not 0 < stride <= 1:
        raise ValueError(f"stride is {stride}; expected a number above 0, at most 1")
    pixels, side = decode_image(image), clip.model.canvas
    shorter_side = max(side, shorter_side or side * 3 // 2)
    resized = fit_shorter_side(pixels, shorter_side)
    height, width = resized.shape[:2]
    total = np.zeros((height, width, len(vectors)), np.float32)
    count = np.zeros((height, width, 1), np.float32)
    step = max(1, round(side * stride))
    for top in _list_starts(height, side, step):
        for left in _list_starts(width, side, step):
            window = resized[None, top : top + side, left : left + side]
            found = _describe(clip.model, clip.variables, jnp.asarray(window), METHODS[method])
            cosines = normalize_rows(np.asarray(found)[0]) @ vectors.T
            scores = resize(jnp.asarray(cosines), (side, side, len(vectors)), "linear")
            total[top : top + side, left : left + side] += np.asarray(scores)
            count[top : top + side, left : left + side] += 1
    cosines = resize(jnp.asarray(total / count), (*pixels.shape[:2], len(vectors)), "linear")
    return softmax(SCALE * np.asarray(cosines))


def sharpen_classes(probabilities: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the class of each pixel, by a vote of the pixels of its mask.

    Args:
      probabilities: float32 [H, W, K], see `classify_pixels`.
      masks: bool [H, W], such as those of segment-everything. Smaller ones lie on top. Pixels of no
        mask keep their own class.

    Returns:
      int32 [H, W], indices of classes.
    """
    classes = probabilities.argmax(axis=-1).astype(np.int32)
    votes = classes.copy()
    for mask in sorted(masks, key=lambda mask: -np.count_nonzero(mask)):
        if mask.any():
            counts = np.bincount(votes[mask], minlength=probabilities.shape[-1])
            classes[mask] = counts.argmax()
    return classes


def _list_starts(length: int, window: int, step: int) -> Iterator[int]:
    """Yields the first pixels of windows that cover a length."""
    last = length - window
    yield from range(0, last, step)
    yield last
