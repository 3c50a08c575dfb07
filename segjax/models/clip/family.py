"""Sizes of CLIP, and the record of the family."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.clip.clip import ClipModel
from segjax.models.family import Family, describe_vit, keep_model
from segjax.models.sizes import build_from_size
from segjax.ops.positions import resize_bicubic

_TEXT_512 = dict(text_width=512, text_depth=12, text_heads=8, embedding=512)
_TEXT_768 = dict(text_width=768, text_depth=12, text_heads=12, embedding=768)
_BASE = dict(canvas=224, width=768, depth=12, heads=12) | _TEXT_512
_LARGE = dict(patch=14, width=1024, depth=24, heads=16) | _TEXT_768
SIZES = {
    "clip_vit_b_32": _BASE | dict(patch=32),
    "clip_vit_b_16": _BASE | dict(patch=16),
    "clip_vit_l_14": _LARGE | dict(canvas=224),
    "clip_vit_l_14_336": _LARGE | dict(canvas=336),
    # open_clip's, which was trained with the exact GELU
    "clip_vit_h_14": dict(canvas=224, patch=14, width=1280, depth=32, heads=16)
    | dict(text_width=1024, text_depth=24, text_heads=16, embedding=1024, activation="gelu"),
    # For captions of synthetic scenes: images of one object, a vocabulary of a few words.
    "clip_tiny": dict(canvas=64, patch=16, width=128, depth=4, heads=4)
    | dict(text_width=96, text_depth=2, text_heads=4, embedding=96)
    | dict(context=16, vocabulary=64, tokenizer="captions", activation="gelu"),
    "clip_debug": dict(canvas=32, patch=8, width=32, depth=2, heads=2)
    | dict(text_width=32, text_depth=1, text_heads=2, embedding=16)
    | dict(context=16, vocabulary=64, tokenizer="captions", activation="gelu"),
}


def build_clip(name: str, **overrides: Any) -> ClipModel:
    """Builds a CLIP by name.

    Args:
      name: a key of `SIZES`.
      overrides: attributes of `ClipModel` to replace. `dtype` may be a string.

    Raises:
      ValueError: unknown size or attribute, naming the nearest ones.
    """
    return build_from_size(ClipModel, SIZES, name, overrides)


def init_clip(model: ClipModel, key: jax.Array) -> dict[str, Any]:
    """Draws fresh variables {"params", "constants"}. Traceable, see `jax.eval_shape`."""
    images = jnp.zeros((1, model.canvas, model.canvas, 3))
    return {"constants": {}} | model.init(key, images, jnp.zeros((1, model.context), jnp.int32))


def resize_clip_positions(
    variables: Mapping[str, Any], stored: ClipModel, model: ClipModel
) -> Mapping[str, Any]:
    """Returns the variables with the image tower's positions resized to another canvas."""
    params = variables["params"]
    encoder = params["image"]["encoder"]
    table = np.asarray(encoder["pos_embed"], np.float32)
    cells = table[1:].reshape(*stored.grid, -1)
    resized = resize_bicubic(cells, model.grid).reshape(-1, table.shape[-1])
    encoder = {**encoder, "pos_embed": np.concatenate([table[:1], resized])}
    image = {**params["image"], "encoder": encoder}
    return {**variables, "params": {**params, "image": image}}


FAMILY = Family(
    title="CLIP",
    module=ClipModel,
    sizes=SIZES,
    build=build_clip,
    init=init_clip,
    task="contrastive",
    encoder_path="image/encoder",
    name_tables=(
        "segjax.weights.tables.clip:OPENAI",
        "segjax.weights.tables.clip:HUGGINGFACE_CLIP",
    ),
    usage="`segjax label` names masks with a CLIP, and `segjax.Clip.load` encodes images and texts",
    origin="experiments/clip trains one",
    describe_encoder=describe_vit,
    fit_encoder=keep_model,
    fit_canvas=resize_clip_positions,
    recognize="segjax.inference.clip.recognize:recognize_clip",
    check_weights="segjax.inference.clip.recognize:check_activation",
)
