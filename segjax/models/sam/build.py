"""Table of the sizes of SAM, published and small, and their construction."""

import jax
import jax.numpy as jnp

from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam
from segjax.models.sizes import build_from_size

_PUBLISHED = dict(canvas=1024, patch=16, window=14)
_SMALL = dict(prompt_width=64, decoder_heads=4, decoder_mlp=256, rel_pos=True)

SIZES = {
    # arXiv 2304.02643, appendix A: ViTDet's windows of 14 with four global blocks, evenly spaced.
    "sam_vit_b": _PUBLISHED | dict(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "sam_vit_l": _PUBLISHED | dict(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "sam_vit_h": _PUBLISHED | dict(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
    # Sizes of segjax. For CPUs and small images: every block is global.
    "sam_tiny": _SMALL | dict(canvas=128, patch=16, width=128, depth=4, heads=4, window=0),
    # For tests and debug variants: has every kind of layer and runs in a second.
    "sam_debug": _SMALL
    | dict(canvas=64, patch=16, width=32, depth=2, heads=2, window=3, global_blocks=(1,))
    | dict(prompt_width=32, decoder_mlp=64),
}


def build_sam(name: str, **overrides) -> Sam:
    """Builds a SAM by name.

    Example:
      >>> build_sam("sam_vit_b", dtype="bfloat16").canvas
      1024

    Args:
      name: A key of `SIZES`.
      **overrides: Attributes of `Sam` to replace. `dtype` may be a string.

    Raises:
      ValueError: Unknown size or attribute. The message names the nearest ones.
    """
    return build_from_size(Sam, SIZES, name, overrides)


def init_sam(model: Sam, key: jax.Array) -> dict:
    """Initializes the variables of a SAM.

    The function is traceable, so `jax.eval_shape` computes the shapes alone.

    Args:
      model: The SAM.
      key: PRNG key.

    Returns:
      {"params", "constants"}, nested dicts of arrays.
    """
    images = jnp.zeros((1, model.canvas, model.canvas, 3))
    # During initialization the prompt encoder also runs its mask branch, without a mask.
    prompts = Prompts(
        points=jnp.zeros((1, 1, 1, 2)),
        labels=jnp.ones((1, 1, 1), jnp.int32),
        boxes=jnp.zeros((1, 1, 4)),
    )
    return model.init(key, images, prompts)
