"""The sizes of SAM, published and small, in one table."""

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
    # Ours, for CPUs and small pictures: every block is global.
    "sam_tiny": _SMALL | dict(canvas=128, patch=16, width=128, depth=4, heads=4, window=0),
    # For tests and debug variants: all kinds of layer, in a second.
    "sam_debug": _SMALL
    | dict(canvas=64, patch=16, width=32, depth=2, heads=2, window=3, global_blocks=(1,))
    | dict(prompt_width=32, decoder_mlp=64),
}


def build_sam(name: str, **overrides) -> Sam:
    """A SAM by name, with any attribute of `Sam` replaced; `dtype` may be a string.

    Raises:
      ValueError: unknown size or attribute, naming the nearest ones.
    """
    return build_from_size(Sam, SIZES, name, overrides)


def init_sam(model: Sam, key: jax.Array) -> dict:
    """Fresh variables {"params", "constants"} of a SAM; traceable, so `jax.eval_shape` gives the shapes alone."""
    images = jnp.zeros((1, model.canvas, model.canvas, 3))
    prompts = Prompts(
        points=jnp.zeros((1, 1, 1, 2)),
        labels=jnp.ones((1, 1, 1), jnp.int32),
        boxes=jnp.zeros((1, 1, 4)),
    )
    return model.init(key, images, prompts)
