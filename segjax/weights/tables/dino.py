"""Names of DINO's modules: ours, those of facebook's code and timm, and those of transformers.

The table of DINO and DINOv2 reads facebook's files, timm's, and transformers' ViTModel, Dinov2Model
and Dinov2WithRegistersModel. DINOv3 has a table of its own: it has no positions, and transformers
gives its modules other names.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.layouts import CONVOLUTION, LINEAR, NORM, ROW, SAME, TOKEN, Leaves
from segjax.weights.names import HUGGINGFACE, OFFICIAL, Entry, NameTable
from segjax.weights.tables.mae import has_class_position
from segjax.weights.tree import CheckpointError

# Registers as a batch of one sequence
_SEQUENCE: Leaves = {"": ("", ROW)}
_TOKEN: Leaves = {"": ("", TOKEN)}
_PARTS = ("q", "k", "v")
_FIRST_PERIODS = "rope_embed.periods"


def _list_entries(registers: str, block: str, patches: str, norm: str) -> list[Entry]:
    """Returns the entries that all versions share.

    Args:
      registers: facebook's name of the registers.
      block: transformers' name of a block.
      patches: transformers' name of the patch embedding.
      norm: transformers' name of the last norm.
    """
    entries: list[Entry] = [
        ("params/vit/cls_token", "cls_token", "embeddings.cls_token", _TOKEN),
        ("params/vit/registers", registers, "embeddings.register_tokens", _SEQUENCE),
        ("params/vit/patch_embed", "patch_embed.proj", patches, CONVOLUTION),
        ("params/mask_token", "mask_token", "embeddings.mask_token", {"": ("", ROW)}),
        ("params/norm", "norm", norm, NORM),
    ]
    attention = [f"{block}.attention.{part}_proj" for part in _PARTS]
    rows: list[tuple[str, str, Any, Leaves]] = [
        ("norm_1", "norm1", f"{block}.norm1", NORM),
        ("norm_2", "norm2", f"{block}.norm2", NORM),
        ("qkv", "attn.qkv", attention, LINEAR),
        ("proj", "attn.proj", f"{block}.attention.o_proj", LINEAR),
        ("mlp/layer_0", "mlp.fc1", f"{block}.mlp.fc1", LINEAR),
        ("mlp/layer_1", "mlp.fc2", f"{block}.mlp.fc2", LINEAR),
        ("scale_1", "ls1.gamma", f"{block}.layer_scale1.lambda1", {"": ("", SAME)}),
        ("scale_2", "ls2.gamma", f"{block}.layer_scale2.lambda1", {"": ("", SAME)}),
    ]
    return entries + [
        (f"params/vit/trunk/block_{{i}}/{ours}", f"blocks.{{i}}.{official}", theirs, leaves)
        for ours, official, theirs, leaves in rows
    ]


def _join_parts(state: dict[str, Any], ending: str, first: str, second: str) -> dict[str, Any]:
    """Returns the state dict with the two matrices of gated MLPs joined in "fc1"."""
    joined = dict(state)
    for key in state:
        if match := re.fullmatch(rf"(.*\.mlp)\.{first}\.(weight|bias)", key):
            other = f"{match[1]}.{second}.{match[2]}"
            if other in state:
                parts = [np.asarray(joined.pop(key)), np.asarray(joined.pop(other))]
                joined[f"{match[1]}.fc1.{match[2]}"] = np.concatenate(parts)
    return {re.sub(rf"\.mlp\.{ending}\.", ".mlp.fc2.", key): x for key, x in joined.items()}


def _split_parts(state: dict[str, Any], ending: str, first: str, second: str) -> dict[str, Any]:
    """Inverse of `_join_parts`. Plain MLPs stay as they are."""
    split: dict[str, Any] = {}
    gated = _is_gated(state)
    for key, array in state.items():
        if gated and (match := re.fullmatch(r"(.*\.mlp)\.fc1\.(weight|bias)", key)):
            for name, part in zip((first, second), np.split(array, 2), strict=True):
                split[f"{match[1]}.{name}.{match[2]}"] = part
        else:
            split[key.replace(".mlp.fc2.", f".mlp.{ending}.") if gated else key] = array
    return split


def _is_gated(state: Mapping[str, Any]) -> bool:
    """Tells whether the MLPs are gated: their first matrix has twice the rows."""
    for key in state:
        if key.endswith(".mlp.fc1.weight"):
            hidden = np.shape(state.get(key.replace("fc1", "fc2")))
            return len(hidden) == 2 and np.shape(state[key])[0] == 2 * hidden[1]
    return False


def _add_mask_token(state: dict[str, Any], format: str) -> dict[str, Any]:
    """Returns the state dict with a mask token, which only training needs and timm leaves out."""
    key = "mask_token" if format == OFFICIAL else "embeddings.mask_token"
    token = state.get("cls_token" if format == OFFICIAL else "embeddings.cls_token")
    scaled = any(".ls1." in name or ".layer_scale1." in name for name in state)
    if scaled and key not in state and np.ndim(token) == 3:
        state = {**state, key: np.zeros(token.shape[1:], np.float32)}
    if np.ndim(state.get(key)) == 3:  # [1, 1, D] in transformers' DINOv3
        state = {**state, key: state[key][0]}
    return state


def _from_v2(state: dict[str, Any], format: str) -> dict[str, Any]:
    """Returns the arrays of DINO's or DINOv2's table."""
    if format == HUGGINGFACE:
        state = _join_parts(state, "down_proj", "gate_proj", "up_proj")
        return _add_mask_token(state, format)
    # timm adds the class token's position to the token and stores the others
    table = state.get("pos_embed")
    if np.ndim(table) == 3 and math.isqrt(table.shape[1]) ** 2 == table.shape[1]:
        state = {**state, "pos_embed": np.pad(table, ((0, 0), (1, 0), (0, 0)))}
    return _add_mask_token(state, format)


def _to_v2(state: dict[str, Any], format: str) -> dict[str, Any]:
    """Returns the arrays as facebook and transformers store them."""
    if format == OFFICIAL:
        if not _is_gated(state):
            return state
        names = ((".mlp.fc1.", ".mlp.w12."), (".mlp.fc2.", ".mlp.w3."))
        for ours, theirs in names:
            state = {key.replace(ours, theirs): array for key, array in state.items()}
        return state
    if not any(".layer_scale1." in key for key in state):
        raise CheckpointError(
            "transformers keeps DINO as ViTModel, without a place for its names here; write the "
            "official format"
        )
    return _split_parts(state, "down_proj", "gate_proj", "up_proj")


def _from_v3(state: dict[str, Any], format: str) -> dict[str, Any]:
    """Returns the arrays of DINOv3's table."""
    if format == OFFICIAL:
        state = _join_parts(state, "w3", "w1", "w2")
        for key in [key for key in state if key.endswith(".bias_mask")]:
            mask = np.asarray(state.pop(key), np.float32)
            bias = key.removesuffix("_mask")
            # The mask may hold NaN where the bias does not count
            state[bias] = np.where(np.nan_to_num(mask) == 0, 0, state[bias]).astype(np.float32)
        return _add_mask_token(state, format)
    state = _join_parts(state, "down_proj", "gate_proj", "up_proj")
    names = ((r"\.mlp\.up_proj\.", ".mlp.fc1."), (r"\.mlp\.down_proj\.", ".mlp.fc2."))
    for pattern, name in names:
        state = {re.sub(pattern, name, key): array for key, array in state.items()}
    # transformers computes the periods, and its keys have no bias
    for key in [key for key in state if key.endswith(".q_proj.bias")]:
        state.setdefault(key.replace(".q_proj.", ".k_proj."), np.zeros_like(state[key]))
    heads = _count_channels(state)
    if heads and _FIRST_PERIODS not in state:
        state[_FIRST_PERIODS] = np.float32(100) ** (
            np.arange(heads // 4, dtype=np.float32) * 4 / heads
        )
    return _add_mask_token(state, format)


def _count_channels(state: Mapping[str, Any]) -> int:
    """Returns the channels of a head of a published DINOv3: 128 of the 7B model, else 64."""
    token = state.get("embeddings.cls_token")
    if np.ndim(token) != 3:
        return 0
    return 128 if token.shape[-1] == 4096 else 64


def _to_v3(state: dict[str, Any], format: str) -> dict[str, Any]:
    """Returns the arrays as facebook and transformers store them."""
    state = dict(state)
    if format == OFFICIAL:
        for key in [key for key in state if key.endswith(".attn.qkv.bias")]:
            mask = np.ones(np.shape(state[key]), np.float32)
            mask[len(mask) // 3 : 2 * len(mask) // 3] = 0
            state[f"{key}_mask"] = mask
        return _split_parts(state, "w3", "w1", "w2")
    for key in [key for key in state if key.endswith(".k_proj.bias")]:
        if np.any(state.pop(key)):
            raise CheckpointError(f"{key} is not 0, and transformers' DINOv3 has no such bias")
    state.pop(_FIRST_PERIODS, None)
    token = "embeddings.mask_token"
    state[token] = state[token][None]
    state = _split_parts(state, "down_proj", "gate_proj", "up_proj")
    state = {key.replace(".mlp.fc1.", ".mlp.up_proj."): x for key, x in state.items()}
    return {key.replace(".mlp.fc2.", ".mlp.down_proj."): x for key, x in state.items()}


def _read_options(state: Mapping[str, Any], format: str) -> dict[str, Any]:
    """Returns what tells the versions apart, and the rule that resizes their positions."""
    official = format == OFFICIAL
    names = ("register_tokens", "storage_tokens", "embeddings.register_tokens")
    registers = next((np.shape(state[name])[1] for name in names if name in state), 0)
    scaled = any(".ls1." in key or ".layer_scale1." in key for key in state)
    rotary = "pos_embed" not in state and "embeddings.position_embeddings" not in state
    options = dict(registers=registers, gated=_is_gated(state), layer_scale=scaled, rotary=rotary)
    if not rotary:
        plain = "offset" if official else "size"
        options["position_rule"] = "antialias" if registers else plain
    return options


def _is_dino(state: Mapping[str, Any]) -> bool:
    """Tells a DINO of facebook's names from a MAE's encoder."""
    official = "cls_token" in state
    return not official or "blocks.0.ls1.gamma" in state or has_class_position(state)


# Names in files of transformers 4 and 5 -> those of transformers 5's models in memory
_HUGGINGFACE_KEYS = (
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)
_USAGE = "; `segjax segment --emergent` finds masks in its features"

DINO = NameTable(
    model="DINO",
    own_module="params/vit/pos_embed",
    encoder="params/vit",
    formats={
        OFFICIAL: "facebookresearch's DINO or DINOv2, or timm",
        HUGGINGFACE: "transformers' ViTModel or Dinov2Model",
    },
    signatures={
        OFFICIAL: ("cls_token",),
        HUGGINGFACE: ("embeddings.position_embeddings",),
    },
    foreign_keys={
        OFFICIAL: ("decoder_", "head.weight", "fc_norm.weight", "storage_tokens", "rope_embed."),
        HUGGINGFACE: ("classifier.",),
    },
    accepts=_is_dino,
    position_keys={OFFICIAL: "pos_embed", HUGGINGFACE: "embeddings.position_embeddings"},
    entries=[
        (
            "params/vit/pos_embed",
            "pos_embed",
            "embeddings.position_embeddings",
            {"": ("", ROW)},
        ),
        *_list_entries(
            "register_tokens",
            "encoder.layer.{i}",
            "embeddings.patch_embeddings.projection",
            "layernorm",
        ),
    ],
    ignored_keys={OFFICIAL: r"head\..*", HUGGINGFACE: r"pooler\..*"},
    renamed_keys={
        OFFICIAL: (
            (r"\.mlp\.w12\.", ".mlp.fc1."),
            (r"\.mlp\.w3\.", ".mlp.fc2."),
            (r"^reg_token$", "register_tokens"),
        ),
        HUGGINGFACE: _HUGGINGFACE_KEYS,
    },
    from_format=_from_v2,
    to_format=_to_v2,
    read_options=_read_options,
    usage=_USAGE,
)
DINO_V3 = NameTable(
    model="DINOv3",
    own_module="constants/vit/periods",
    encoder="params/vit",
    formats={OFFICIAL: "facebookresearch's DINOv3", HUGGINGFACE: "transformers' DINOv3ViTModel"},
    signatures={
        OFFICIAL: ("storage_tokens",),
        HUGGINGFACE: ("embeddings.patch_embeddings.weight",),
    },
    entries=[
        ("constants/vit/periods", _FIRST_PERIODS, _FIRST_PERIODS, {"": ("", SAME)}),
        *_list_entries(
            "storage_tokens",
            "model.layer.{i}",
            "embeddings.patch_embeddings",
            "norm",
        ),
    ],
    # The norm of local crops in training
    ignored_keys={OFFICIAL: r"local_cls_norm\..*"},
    renamed_keys={HUGGINGFACE: ((r"^layer\.", "model.layer."),)},
    from_format=_from_v3,
    to_format=_to_v3,
    read_options=_read_options,
    usage=_USAGE,
)
