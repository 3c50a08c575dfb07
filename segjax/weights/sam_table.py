"""SAM's modules under three names: ours, segment-anything's (the published .pth files) and transformers' (SamModel).

One table says which is which and how its arrays are laid out. `i` stands for a number (of a block, a mask), `p` for a
projection (q, k, v, out). `segjax.weights.sam_names` moves arrays by it.
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np

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
COPIES = {
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
