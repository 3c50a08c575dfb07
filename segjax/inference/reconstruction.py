"""Reconstructs a masked image with a masked autoencoder."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from segjax.images.transforms import decode_crop
from segjax.models.mae import Mae
from segjax.ops.patches import render_prediction


class ReconstructedImage(NamedTuple):
    """Image and its reconstruction, on the model's canvas of H x W pixels.

    Attributes:
      image: uint8 [H, W, 3], center of the original image.
      predicted: uint8 [H, W, 3], prediction of all patches. Those of visible patches mean little,
        because the loss does not train them.
      masked: bool [h, w], True for masked patches.
    """

    image: np.ndarray
    predicted: np.ndarray
    masked: np.ndarray


def reconstruct(
    model: Mae, variables: Mapping[str, Any], image: np.ndarray, *, seed: int = 0
) -> ReconstructedImage:
    """Masks an image with the model's own ratio and strategy, and predicts the masked patches.

    Example:
      model, variables = segjax.load("runs/mae")
      result = reconstruct(model, variables, image)
      result.predicted, result.masked

    Args:
      model: masked autoencoder.
      variables: {"params", "constants"}.
      image: uint8 [H, W, 3] of any size. Its largest central square, or rectangle of the
        canvas's shape, is resized to the canvas.
      seed: seed of the mask.

    Raises:
      ValueError: a MAE of other channels than RGB, a mask ratio outside (0, 1), or one that leaves
        no patch.
    """
    *size, channels = model.image_shape
    if channels != 3:
        raise ValueError(
            f"this MAE takes images of {channels} channels, and an image that is read has the "
            "three of RGB; call model.apply with arrays"
        )
    content = np.asarray(decode_crop(image, lambda hw: (_find_center(hw, size), tuple(size))))
    predicted, masked = _reconstruct(model, variables, content[None], jax.random.key(seed))
    return ReconstructedImage(
        content, np.asarray(predicted[0]), np.asarray(masked[0]).reshape(model.grid)
    )


def _find_center(hw: tuple[int, int], size: Sequence[int]) -> tuple[int, int, int, int]:
    """Returns top, left, height and width of the largest central rectangle of a shape."""
    scale = min(side / wanted for side, wanted in zip(hw, size, strict=True))
    height, width = (max(round(wanted * scale), 1) for wanted in size)
    return (hw[0] - height) // 2, (hw[1] - width) // 2, height, width


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(
    model: Mae, variables: Mapping[str, Any], images: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    prediction, masked = model.apply(variables, images, rngs={"mask": key})
    return render_prediction(prediction, images, model.patch, norm_pix=model.norm_pix), masked
