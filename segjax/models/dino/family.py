"""Sizes of DINO, DINOv2 and DINOv3, and the record of the family."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.dino.dino import Dino
from segjax.models.family import Family, describe_vit, keep_model
from segjax.models.sizes import build_from_size
from segjax.ops.positions import position_weights

_SMALL = dict(width=384, depth=12, heads=6)
_BASE = dict(width=768, depth=12, heads=12)
_LARGE = dict(width=1024, depth=24, heads=16)
_GIANT = dict(width=1536, depth=40, heads=24, mlp_ratio=8 / 3, gated=True)
_V1 = dict(canvas=224)
_V2 = dict(canvas=518, patch=14, layer_scale=1.0)
_REGISTERS = _V2 | dict(registers=4, position_rule="antialias")
_V3 = dict(canvas=224, patch=16, registers=4, layer_scale=1e-5, position_rule="rotary")
_V3 |= dict(epsilon=1e-5)

SIZES: dict[str, dict[str, Any]] = {
    "dino_vit_s_16": _V1 | _SMALL | dict(patch=16),
    "dino_vit_s_8": _V1 | _SMALL | dict(patch=8),
    "dino_vit_b_16": _V1 | _BASE | dict(patch=16),
    "dino_vit_b_8": _V1 | _BASE | dict(patch=8),
    "dinov2_vit_s_14": _V2 | _SMALL,
    "dinov2_vit_b_14": _V2 | _BASE,
    "dinov2_vit_l_14": _V2 | _LARGE,
    "dinov2_vit_g_14": _V2 | _GIANT,
    "dinov2_vit_s_14_reg4": _REGISTERS | _SMALL,
    "dinov2_vit_b_14_reg4": _REGISTERS | _BASE,
    "dinov2_vit_l_14_reg4": _REGISTERS | _LARGE,
    "dinov2_vit_g_14_reg4": _REGISTERS | _GIANT,
    "dinov3_vit_s_16": _V3 | _SMALL,
    "dinov3_vit_s_plus_16": _V3 | _SMALL | dict(gated=True),
    "dinov3_vit_b_16": _V3 | _BASE,
    "dinov3_vit_l_16": _V3 | _LARGE,
    "dinov3_vit_h_plus_16": _V3 | dict(width=1280, depth=32, heads=20, gated=True),
    "dinov3_vit_7b_16": _V3
    | dict(width=4096, depth=40, heads=32, mlp_ratio=2.0, gated=True, qkv_bias=False),
    "dino_debug": dict(canvas=32, patch=8, width=32, depth=2, heads=2),
}


def build_dino(name: str, **overrides: Any) -> Dino:
    """Builds a DINO by name.

    Args:
      name: a key of `SIZES`.
      overrides: attributes of `Dino` to replace. `dtype` may be a string.

    Raises:
      ValueError: unknown size or attribute, naming the nearest ones.
    """
    return build_from_size(Dino, SIZES, name, overrides)


def init_dino(model: Dino, key: jax.Array) -> dict[str, Any]:
    """Draws fresh variables {"params", "constants"}. Traceable, see `jax.eval_shape`."""
    images = jnp.zeros((1, model.canvas, model.canvas, 3))
    return {"constants": {}} | model.init(key, images)


def resize_dino_positions(
    variables: Mapping[str, Any], stored: Dino, model: Dino
) -> Mapping[str, Any]:
    """Returns the variables with positions resized to another canvas by the model's rule."""
    if model.position_rule == "rotary":
        return variables
    params = variables["params"]
    table = np.asarray(params["vit"]["pos_embed"], np.float32)
    weights = position_weights(stored.grid[0], model.grid[0], model.position_rule)
    cells = table[1:].reshape(*stored.grid, -1)
    cells = np.einsum("yh,xw,hwd->yxd", weights, weights, cells).reshape(-1, table.shape[1])
    table = np.concatenate([table[:1], cells.astype(np.float32)])
    return {**variables, "params": {**params, "vit": {**params["vit"], "pos_embed": table}}}


FAMILY = Family(
    title="DINO",
    module=Dino,
    sizes=SIZES,
    build=build_dino,
    init=init_dino,
    encoder_path="vit",
    name_tables=(
        "segjax.weights.tables.dino:DINO",
        "segjax.weights.tables.dino:DINO_V3",
    ),
    usage="`segjax segment --emergent` finds masks in its features",
    origin="published weights are converted; segjax does not train one",
    describe_encoder=describe_vit,
    fit_encoder=keep_model,
    fit_canvas=resize_dino_positions,
    recognize="segjax.inference.recognize:recognize_dino",
)
