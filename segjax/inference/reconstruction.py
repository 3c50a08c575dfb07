"""What a masked autoencoder makes of one picture."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from segjax.images.transforms import center_crop
from segjax.models.mae import Mae
from segjax.ops.patches import render_prediction


class Reconstruction(NamedTuple):
    """One picture on the model's canvas of S pixels.

    image: uint8 [S, S, 3], the middle of the picture. predicted: uint8 [S, S, 3], the model's guess of every patch, of
    which those that it saw mean little. masked: bool [h, w], the patches that it did not see.
    """

    image: np.ndarray
    predicted: np.ndarray
    masked: np.ndarray


def reconstruct(
    model: Mae, variables: Mapping[str, Any], image: np.ndarray, *, seed: int = 0
) -> Reconstruction:
    """Masks a picture as the model was trained, with its ratio and strategy, and guesses the rest.

    Args:
      image: uint8 [H, W, 3] of any size; the largest central square is taken, resized to the canvas.
      seed: of the mask.

    Raises:
      ValueError: a mask ratio outside (0, 1), or one that leaves no patch.
    """
    square = center_crop(image, model.canvas)
    predicted, masked = _reconstruct(model, variables, square[None], jax.random.key(seed))
    return Reconstruction(
        square, np.asarray(predicted[0]), np.asarray(masked[0]).reshape(model.grid)
    )


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(
    model: Mae, variables: Mapping[str, Any], images: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    prediction, masked = model.apply(variables, images, rngs={"mask": key})
    return render_prediction(prediction, images, model.patch, norm_pix=model.norm_pix), masked
