"""Records the attention of blocks inside of any model, without options in the model itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from segjax.models.attention.last_block import BlockRecord
from segjax.models.vit.trunk import ViT


def record_blocks(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    blocks: Sequence[int] = (-1,),
) -> tuple[jax.Array, list[BlockRecord]]:
    """Runs an encoder and returns the tokens and the attention of its first ViT.

    Traceable, see `jax.jit`. Blocks with windows have no record.

    Args:
      module: model that holds a `ViT`.
      variables: its variables.
      images: [B, H, W, 3], as its method `encode_image` takes them.
      blocks: indices of the blocks to record. -1 is the last one.

    Returns:
      tokens: outputs of the ViT, [B, T, D] or [B, h, w, D], before any later norm.
      records: one per block.

    Raises:
      ValueError: no ViT runs, or a block that does not exist or has windows.
    """
    found: list[tuple[jax.Array, list[BlockRecord]]] = []

    def intercept(call, args, kwargs, context):
        is_trunk = isinstance(context.module, ViT) and context.method_name == "__call__"
        if not is_trunk or found:
            return call(*args, **kwargs)
        found.append(call(*args, **kwargs, record=tuple(blocks)))
        return found[0][0]

    with nn.intercept_methods(intercept):
        module.apply(variables, images, method="encode_image")
    if not found:
        raise ValueError(
            f"{type(module).__name__} has no ViT; attention is recorded from a model with one, "
            "such as a SAM, a MAE, a CLIP or a DINO"
        )
    return found[0]
