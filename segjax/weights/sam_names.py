"""SAM's arrays under three names: ours, segment-anything's (the published .pth files) and transformers' (SamModel).

One table says which module is which and how its arrays are laid out; everything else here walks it. `i` stands for a
number (of a block, a mask), `p` for a projection (q, k, v, out).
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segjax.weights.tree import CheckpointError, differences, flatten, unflatten

OFFICIAL, HUGGINGFACE = "official", "huggingface"
FAMILIES = {OFFICIAL: "segment-anything", HUGGINGFACE: "transformers' SamModel"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array lies in torch: two functions, each the inverse of the other; both return views where they can."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray], np.ndarray]


def _patches(size: int) -> Layout:
    """A convolution whose stride is its kernel: ours is the matrix [size * size * in, out]."""
    return Layout(
        lambda x: x.reshape(size, size, -1, x.shape[-1]).transpose(3, 2, 0, 1),
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    )


_SAME = Layout(lambda x: x, lambda x: x)
_ROW = Layout(lambda x: x[None], lambda x: x[0])  # an embedding table of one row
_MATRIX = Layout(np.transpose, np.transpose)
_CONV = Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))  # HWIO <-> OIHW
_UPSCALE = Layout(lambda x: x.transpose(0, 3, 1, 2), lambda x: x.transpose(0, 2, 3, 1))  # [in, 2, 2, out]

# Of a module: our leaf -> theirs, and its layout.
_NORM = {"scale": ("weight", _SAME), "bias": ("bias", _SAME)}
_LINEAR, _CONVOLUTION, _UPSCALING, _PATCHES_1, _PATCHES_2 = (
    {"kernel": ("weight", layout), "bias": ("bias", _SAME)}
    for layout in (_MATRIX, _CONV, _UPSCALE, _patches(1), _patches(2))
)
_TABLES = {"rel_pos_h": ("rel_pos_h", _SAME), "rel_pos_w": ("rel_pos_w", _SAME)}

_ENCODER = "params/image_encoder/"
_BLOCK = "params/image_encoder/trunk/block_{i}"
_PROMPT = "params/prompt_encoder/"
_DECODER = "params/mask_decoder/"
_TWO_WAY = "params/mask_decoder/transformer/"
_LAYER = "mask_decoder.transformer.layers.{i}."  # both families call it so

# (ours, segment-anything, transformers, leaves); a leaf "" is the array itself.
_TABLE = [
    (_ENCODER + "pos_embed", "image_encoder.pos_embed", "vision_encoder.pos_embed", {"": ("", _SAME)}),
    (
        _ENCODER + "patch_embed",
        "image_encoder.patch_embed.proj",
        "vision_encoder.patch_embed.projection",
        _CONVOLUTION,
    ),
    *(
        (_BLOCK + ours, "image_encoder.blocks.{i}." + official, "vision_encoder.layers.{i}." + theirs, leaves)
        for ours, official, theirs, leaves in (
            ("/norm_1", "norm1", "layer_norm1", _NORM),
            ("/norm_2", "norm2", "layer_norm2", _NORM),
            ("/qkv", "attn.qkv", "attn.qkv", _LINEAR),
            ("/proj", "attn.proj", "attn.proj", _LINEAR),
            ("", "attn", "attn", _TABLES),
            ("/mlp/layer_0", "mlp.lin1", "mlp.lin1", _LINEAR),
            ("/mlp/layer_1", "mlp.lin2", "mlp.lin2", _LINEAR),
        )
    ),
    (_ENCODER + "neck_conv_1", "image_encoder.neck.0", "vision_encoder.neck.conv1", _CONVOLUTION),
    (_ENCODER + "neck_norm_1", "image_encoder.neck.1", "vision_encoder.neck.layer_norm1", _NORM),
    (_ENCODER + "neck_conv_2", "image_encoder.neck.2", "vision_encoder.neck.conv2", _CONVOLUTION),
    (_ENCODER + "neck_norm_2", "image_encoder.neck.3", "vision_encoder.neck.layer_norm2", _NORM),
    (
        "constants/prompt_encoder/gaussian_matrix",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
        {"": ("", _SAME)},
    ),
    *(
        (
            _PROMPT + ours,
            f"prompt_encoder.point_embeddings.{n}.weight",
            f"prompt_encoder.point_embed.{n}.weight",
            {"": ("", _ROW)},
        )
        for n, ours in enumerate(("background", "foreground", "top_left", "bottom_right"))
    ),
    *(
        (_PROMPT + ours, f"prompt_encoder.{ours}_embed.weight", f"prompt_encoder.{ours}_embed.weight", {"": ("", _ROW)})
        for ours in ("not_a_point", "no_mask")
    ),
    *(
        (_PROMPT + ours, f"prompt_encoder.mask_downscaling.{n}", f"prompt_encoder.mask_embed.{theirs}", leaves)
        for ours, n, theirs, leaves in (
            ("mask_conv_1", 0, "conv1", _PATCHES_2),
            ("mask_norm_1", 1, "layer_norm1", _NORM),
            ("mask_conv_2", 3, "conv2", _PATCHES_2),
            ("mask_norm_2", 4, "layer_norm2", _NORM),
            ("mask_conv_3", 6, "conv3", _PATCHES_1),
        )
    ),
    *(
        (_DECODER + name, f"mask_decoder.{name}.weight", f"mask_decoder.{name}.weight", {"": ("", _SAME)})
        for name in ("iou_token", "mask_tokens")
    ),
    *(
        (_TWO_WAY + "block_{i}/" + ours, _LAYER + official, _LAYER + theirs, leaves)
        for ours, official, theirs, leaves in (
            ("self_attention/{p}", "self_attn.{p}_proj", "self_attn.{p}_proj", _LINEAR),
            ("tokens_to_image/{p}", *["cross_attn_token_to_image.{p}_proj"] * 2, _LINEAR),
            ("image_to_tokens/{p}", *["cross_attn_image_to_token.{p}_proj"] * 2, _LINEAR),
            *((f"norm_{n}", f"norm{n}", f"layer_norm{n}", _NORM) for n in (1, 2, 3, 4)),
            ("mlp/layer_0", "mlp.lin1", "mlp.lin1", _LINEAR),
            ("mlp/layer_1", "mlp.lin2", "mlp.lin2", _LINEAR),
        )
    ),
    (
        _TWO_WAY + "final_tokens_to_image/{p}",
        *["mask_decoder.transformer.final_attn_token_to_image.{p}_proj"] * 2,
        _LINEAR,
    ),
    (
        _TWO_WAY + "final_norm",
        "mask_decoder.transformer.norm_final_attn",
        "mask_decoder.transformer.layer_norm_final_attn",
        _NORM,
    ),
    (_DECODER + "upscale_1", "mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1", _UPSCALING),
    (_DECODER + "upscale_norm", "mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm", _NORM),
    (_DECODER + "upscale_2", "mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2", _UPSCALING),
    *(
        (_DECODER + f"{ours}/layer_{n}", f"mask_decoder.{both}.layers.{n}", f"mask_decoder.{both}.{theirs}", _LINEAR)
        for ours, both in (("hypernetwork_{i}", "output_hypernetworks_mlps.{i}"), ("iou_head", "iou_prediction_head"))
        for n, theirs in enumerate(("proj_in", "layers.0", "proj_out"))
    ),
]
# transformers holds the Gaussian matrix twice, and its own safetensors files leave the second one out.
_COPIES = {
    OFFICIAL: {},
    HUGGINGFACE: {
        "prompt_encoder.shared_embedding.positional_embedding": "shared_image_embedding.positional_embedding"
    },
}


def _rows() -> list[tuple[re.Pattern, dict[str, str], Layout]]:
    """(pattern of our path, template of theirs by family, layout), one for each kind of array."""
    rows = []
    for ours, official, theirs, leaves in _TABLE:
        for leaf, (their_leaf, layout) in leaves.items():
            path = f"{ours}/{leaf}" if leaf else ours
            pattern = path.replace("{i}", r"(?P<i>\d+)").replace("{p}", "(?P<p>q|k|v|out)")
            keys = {
                family: f"{key}.{their_leaf}" if leaf else key
                for family, key in zip(FAMILIES, (official, theirs), strict=True)
            }
            rows.append((re.compile(pattern), keys, layout))
    return rows


_ROWS = _rows()


def published_name(path: str, family: str) -> tuple[str, Layout]:
    """(their key, layout) of an array of ours. Raises KeyError for an array that SAM does not have."""
    for pattern, keys, layout in _ROWS:
        if match := pattern.fullmatch(path):
            return keys[family].format(**match.groupdict()), layout
    raise KeyError(f"{path} is no array of SAM's")


def to_published(variables: Mapping[str, Any], family: str) -> dict[str, np.ndarray]:
    """The state dict of our variables {"params", "constants"}, by their key and in their layout.

    Args:
      variables: nested dicts of arrays, the canonical tree of `segjax.models.sam`.
      family: "official" (segment-anything) or "huggingface" (transformers).
    """
    state = {}
    for path, array in flatten(variables).items():
        key, layout = published_name(path, family)
        state[key] = layout.to_torch(np.asarray(array))
    return state | {copy: state[key] for copy, key in _COPIES[family].items()}


def published_shapes(variables: Mapping[str, Any], family: str) -> dict[str, tuple[int, ...]]:
    """Shapes of `to_published`'s arrays, for a tree of anything with a shape; makes no array."""
    empty = {path: np.broadcast_to(np.int8(0), leaf.shape) for path, leaf in flatten(variables).items()}
    return {key: array.shape for key, array in to_published(unflatten(empty), family).items()}


def from_published(
    state: Mapping[str, np.ndarray], expected: Mapping[str, Any], *, family: str, source: str, hint: str = ""
) -> dict[str, Any]:
    """Our variables of a state dict, every key and shape of which must be that of the expected model.

    Args:
      state: arrays by their key (see `segjax.weights.state_dict.state_of` for what files wrap around them).
      expected: {"params", "constants"}, nested dicts of anything with a shape.
      family: whose names they are. source: how an error calls the file. hint: what the error says at its end.

    Raises:
      CheckpointError: arrays are missing, unexpected, misshapen (counted, the first few listed) or no numbers with a
        fraction, or the two copies of the Gaussian matrix differ.
    """
    want = {key: np.broadcast_to(np.int8(0), shape) for key, shape in published_shapes(expected, family).items()}
    state = dict(state)
    for copy, key in _COPIES[family].items():
        for one, other in ((copy, key), (key, copy)):
            if one not in state and other in state:
                state[one] = state[other]
    if found := differences(want, state):
        raise CheckpointError(f"{source} ({FAMILIES[family]}) is of another architecture: {found}{hint}")
    whole = [f"{key} ({array.dtype})" for key, array in state.items() if array.dtype.kind in "biucOUS"]
    if whole:
        raise CheckpointError(f"{source} holds arrays that are no floating-point numbers: {', '.join(whole[:5])}")
    for copy, key in _COPIES[family].items():
        if not np.array_equal(state[copy], state[key]):
            raise CheckpointError(f"{source} is damaged: {copy} and {key} are the same matrix and differ")
    flat = {}
    for path in flatten(expected):
        key, layout = published_name(path, family)
        flat[path] = layout.to_ours(state[key])
    return unflatten(flat)


def family_of(state: Mapping[str, Any]) -> str | None:
    """Whose names the keys of a state dict are: "official", "huggingface", or None for neither."""
    parts = {key.split(".")[0] for key in state}
    if "vision_encoder" in parts or "shared_image_embedding" in parts:
        return HUGGINGFACE
    return OFFICIAL if parts & {"image_encoder", "prompt_encoder", "mask_decoder"} else None


def encoder_size(state: Mapping[str, Any], family: str) -> dict[str, int]:
    """What the arrays say of the image encoder: "width", "depth" and "canvas" in pixels, as far as they are there."""
    size: dict[str, int] = {}
    positions, _ = published_name(_ENCODER + "pos_embed", family)
    patches, _ = published_name(_ENCODER + "patch_embed/kernel", family)
    block, _ = published_name(_BLOCK.format(i=0) + "/norm_1/scale", family)
    numbers = [re.fullmatch(re.escape(block).replace("0", r"(\d+)", 1), key) for key in state]
    if any(numbers):
        size["depth"] = 1 + max(int(match[1]) for match in numbers if match)
    if patches in state and np.ndim(state[patches]) == 4:
        size["width"] = state[patches].shape[0]
        if positions in state and np.ndim(state[positions]) == 4:
            size["canvas"] = state[positions].shape[1] * state[patches].shape[-1]
    return size


# Keys of models that began as SAM and are others now.
_RELATIVES = {
    "mask_decoder.hf_token": "HQ-SAM",
    "image_encoder.layers.": "MobileSAM",
    "image_encoder.trunk.": "SAM 2",
    "sam_mask_decoder.": "SAM 2",
}


def relative_of(state: Mapping[str, Any]) -> str | None:
    """Which model of SAM's kin a state dict belongs to, None when nothing in it says so."""
    return next((name for start, name in _RELATIVES.items() if any(key.startswith(start) for key in state)), None)
