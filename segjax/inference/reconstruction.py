"""Reconstructs a masked image with a masked autoencoder."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from segjax.images.transforms import center_crop
from segjax.models.mae import Mae
from segjax.ops.patches import render_prediction


class ReconstructedImage(NamedTuple):
    """Image and its reconstruction, on the model's canvas of S pixels.

    Attributes:
      image: uint8 [S, S, 3], center of the original image.
      predicted: uint8 [S, S, 3], prediction of all patches. Those of visible patches mean little,
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
      image: uint8 [H, W, 3] of any size. The largest central square is resized to the canvas.
      seed: seed of the mask.

    Raises:
      ValueError: a mask ratio outside (0, 1), or one that leaves no patch.
    """
    square = center_crop(image, model.canvas)
    predicted, masked = _reconstruct(model, variables, square[None], jax.random.key(seed))
    return ReconstructedImage(
        square, np.asarray(predicted[0]), np.asarray(masked[0]).reshape(model.grid)
    )


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(
    model: Mae, variables: Mapping[str, Any], images: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    prediction, masked = model.apply(variables, images, rngs={"mask": key})
    return render_prediction(prediction, images, model.patch, norm_pix=model.norm_pix), masked
