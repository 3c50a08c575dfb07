"""Attention of SAM's mask decoder: which tokens look where, in both directions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.decoding import decode_image
from segjax.inference.sam.predictor import SamPredictor
from segjax.inference.sam.prompt_checks import check_prompts
from segjax.inference.sam.prompts import count_point_slots, stack_prompts
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam
from segjax.models.sam.two_way_transformer import ProjectedAttention

# Tokens of the mask decoder before those of the prompt: the IoU token and four mask tokens
OUTPUT_TOKENS = ("iou", "single mask", "mask 1", "mask 2", "mask 3")


class AttentionMap(NamedTuple):
    """Attention of one layer of the two-way transformer.

    Attributes:
      name: path of the layer, such as "block_0/tokens_to_image".
      weights: float32 [heads, Tq, Tk], rows of sum 1.
      grid: (h, w) if the keys are the cells of the image.
    """

    name: str
    weights: np.ndarray
    grid: tuple[int, int] | None

    def token_map(self, token: int) -> np.ndarray:
        """Returns where a token looks in the image, the mean over heads, float32 [h, w].

        Raises:
          ValueError: the keys of this layer are not cells of the image.
        """
        if self.grid is None:
            raise ValueError(f"{self.name} does not look at the image")
        return self.weights[:, token].mean(axis=0).reshape(self.grid)


def attention_maps(
    model: Sam, variables: Mapping[str, Any], image: Any, prompt: Mapping[str, Any]
) -> list[AttentionMap]:
    """Decodes one prompt and returns the attention of every layer of the mask decoder.

    Tokens are, in order, those of `OUTPUT_TOKENS`, the prompt's points, and slots for a padding
    point and the two corners of a box. Nothing looks at slots that the prompt does not use.

    Example:
      maps = attention_maps(model, variables, image, {"point_coords": [[320, 200]],
                                                      "point_labels": [1]})
      where = maps[-1].token_map(1)                     # of the single-mask token

    Args:
      model: the SAM.
      variables: its variables.
      image: uint8 [H, W, 3].
      prompt: arguments of `SamPredictor.predict`.

    Returns:
      The layers in the order in which they run: self-attention of the tokens, tokens to image,
      image to tokens, of each block, and the final tokens to image. Padding around the image on the
      canvas is part of it.
    """
    predictor = SamPredictor(model, variables)
    predictor.set_image(decode_image(image))
    grid = tuple(predictor.features.shape[1:3])
    found: list[AttentionMap] = []

    def intercept(call, args, kwargs, context):
        module = context.module
        if isinstance(module, ProjectedAttention) and context.method_name == "__call__":
            weights = np.asarray(_compute_weights(module, *args[:2], *args[3:4]))
            own = weights.reshape(-1, *weights.shape[-3:])[0]
            name = "/".join(module.path[-2:]).removeprefix("transformer/")
            found.append(
                AttentionMap(name, own, grid if own.shape[-1] == grid[0] * grid[1] else None)
            )
        return call(*args, **kwargs)

    # Not compiled, so that the weights are there when a layer runs
    with nn.intercept_methods(intercept):
        model.apply(
            predictor.variables, predictor.features, _stack(predictor, prompt), method="decode"
        )
    return found


def _stack(predictor: SamPredictor, prompt: Mapping[str, Any]) -> Prompts:
    """Returns the arrays of one prompt for `Sam.decode`.

    Raises:
      ValueError: a prompt that `SamPredictor.predict` does not take, or other keys.
    """
    if unknown := sorted(set(prompt) - {"point_coords", "point_labels", "box"}):
        raise ValueError(
            f"prompt has {', '.join(unknown)}; expected point_coords, point_labels and box"
        )
    parts = [
        None if prompt.get(name) is None else np.asarray(prompt[name])[None]
        for name in ("point_coords", "point_labels", "box")
    ]
    hw = predictor.original_size
    checked = check_prompts(*parts, None, None, hw=hw, cells=(predictor.model.mask_side,) * 2)
    placed = checked.scale(hw, predictor.input_size)
    return stack_prompts([placed], (1, 1), count_point_slots([placed]))


def _compute_weights(
    module: ProjectedAttention, q: jax.Array, k: jax.Array, key_valid: jax.Array | None = None
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(C)) of a layer, float32 [..., heads, Tq, Tk]."""
    params = module.variables["params"]
    split = lambda x, name: (x @ params[name]["kernel"] + params[name]["bias"]).reshape(
        *x.shape[:-1], module.heads, -1
    )
    q, k = split(q, "q"), split(k, "k")
    scores = jnp.einsum("...qhc,...khc->...hqk", q, k) * q.shape[-1] ** -0.5
    if key_valid is not None:
        scores = jnp.where(key_valid[..., None, None, :], scores, -jnp.inf)
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
