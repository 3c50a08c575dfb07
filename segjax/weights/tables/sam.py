"""Names of SAM's modules: ours, those of segment-anything, and those of transformers.

The published .pth files have segment-anything's names. transformers' model is SamModel.
`segjax.weights.names` moves arrays by the table.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.layouts import (
    CONVOLUTION,
    LINEAR,
    NORM,
    PATCHES_1,
    PATCHES_2,
    ROW,
    SAME,
    UPSCALING,
)
from segjax.weights.names import HUGGINGFACE, OFFICIAL, NameTable
from segjax.weights.tree import flatten

_TABLES = {"rel_pos_h": ("rel_pos_h", SAME), "rel_pos_w": ("rel_pos_w", SAME)}

_GAUSSIAN_MATRIX = "shared_image_embedding.positional_embedding"
_ENCODER = "params/image_encoder/"
_BLOCK = "params/image_encoder/trunk/block_{i}"
_PROMPT = "params/prompt_encoder/"
_DECODER = "params/mask_decoder/"
_TWO_WAY = "params/mask_decoder/transformer/"
_LAYER = "mask_decoder.transformer.layers.{i}."  # in both formats

_ENTRIES = [
    (
        _ENCODER + "pos_embed",
        "image_encoder.pos_embed",
        "vision_encoder.pos_embed",
        {"": ("", SAME)},
    ),
    (
        _ENCODER + "patch_embed",
        "image_encoder.patch_embed.proj",
        "vision_encoder.patch_embed.projection",
        CONVOLUTION,
    ),
    *(
        (
            _BLOCK + ours,
            "image_encoder.blocks.{i}." + official,
            "vision_encoder.layers.{i}." + theirs,
            leaves,
        )
        for ours, official, theirs, leaves in (
            ("/norm_1", "norm1", "layer_norm1", NORM),
            ("/norm_2", "norm2", "layer_norm2", NORM),
            ("/qkv", "attn.qkv", "attn.qkv", LINEAR),
            ("/proj", "attn.proj", "attn.proj", LINEAR),
            ("", "attn", "attn", _TABLES),
            ("/mlp/layer_0", "mlp.lin1", "mlp.lin1", LINEAR),
            ("/mlp/layer_1", "mlp.lin2", "mlp.lin2", LINEAR),
        )
    ),
    (_ENCODER + "neck_conv_1", "image_encoder.neck.0", "vision_encoder.neck.conv1", CONVOLUTION),
    (_ENCODER + "neck_norm_1", "image_encoder.neck.1", "vision_encoder.neck.layer_norm1", NORM),
    (_ENCODER + "neck_conv_2", "image_encoder.neck.2", "vision_encoder.neck.conv2", CONVOLUTION),
    (_ENCODER + "neck_norm_2", "image_encoder.neck.3", "vision_encoder.neck.layer_norm2", NORM),
    (
        "constants/prompt_encoder/gaussian_matrix",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        _GAUSSIAN_MATRIX,
        {"": ("", SAME)},
    ),
    *(
        (
            _PROMPT + ours,
            f"prompt_encoder.point_embeddings.{n}.weight",
            f"prompt_encoder.point_embed.{n}.weight",
            {"": ("", ROW)},
        )
        for n, ours in enumerate(("background", "foreground", "top_left", "bottom_right"))
    ),
    *(
        (
            _PROMPT + ours,
            f"prompt_encoder.{ours}_embed.weight",
            f"prompt_encoder.{ours}_embed.weight",
            {"": ("", ROW)},
        )
        for ours in ("not_a_point", "no_mask")
    ),
    *(
        (
            _PROMPT + ours,
            f"prompt_encoder.mask_downscaling.{n}",
            f"prompt_encoder.mask_embed.{theirs}",
            leaves,
        )
        for ours, n, theirs, leaves in (
            ("mask_conv_1", 0, "conv1", PATCHES_2),
            ("mask_norm_1", 1, "layer_norm1", NORM),
            ("mask_conv_2", 3, "conv2", PATCHES_2),
            ("mask_norm_2", 4, "layer_norm2", NORM),
            ("mask_conv_3", 6, "conv3", PATCHES_1),
        )
    ),
    # Text prompts, which other implementations do not have
    (_PROMPT + "text_proj", (), (), LINEAR),
    (_PROMPT + "text_kind", (), (), {"": ("", SAME)}),
    *(
        (
            _DECODER + name,
            f"mask_decoder.{name}.weight",
            f"mask_decoder.{name}.weight",
            {"": ("", SAME)},
        )
        for name in ("iou_token", "mask_tokens")
    ),
    *(
        (_TWO_WAY + "block_{i}/" + ours, _LAYER + official, _LAYER + theirs, leaves)
        for ours, official, theirs, leaves in (
            ("self_attention/{p}", "self_attn.{p}_proj", "self_attn.{p}_proj", LINEAR),
            ("tokens_to_image/{p}", *["cross_attn_token_to_image.{p}_proj"] * 2, LINEAR),
            ("image_to_tokens/{p}", *["cross_attn_image_to_token.{p}_proj"] * 2, LINEAR),
            *((f"norm_{n}", f"norm{n}", f"layer_norm{n}", NORM) for n in (1, 2, 3, 4)),
            ("mlp/layer_0", "mlp.lin1", "mlp.lin1", LINEAR),
            ("mlp/layer_1", "mlp.lin2", "mlp.lin2", LINEAR),
        )
    ),
    (
        _TWO_WAY + "final_tokens_to_image/{p}",
        *["mask_decoder.transformer.final_attn_token_to_image.{p}_proj"] * 2,
        LINEAR,
    ),
    (
        _TWO_WAY + "final_norm",
        "mask_decoder.transformer.norm_final_attn",
        "mask_decoder.transformer.layer_norm_final_attn",
        NORM,
    ),
    (
        _DECODER + "upscale_1",
        "mask_decoder.output_upscaling.0",
        "mask_decoder.upscale_conv1",
        UPSCALING,
    ),
    (
        _DECODER + "upscale_norm",
        "mask_decoder.output_upscaling.1",
        "mask_decoder.upscale_layer_norm",
        NORM,
    ),
    (
        _DECODER + "upscale_2",
        "mask_decoder.output_upscaling.3",
        "mask_decoder.upscale_conv2",
        UPSCALING,
    ),
    *(
        (
            _DECODER + f"{ours}/layer_{n}",
            f"mask_decoder.{both}.layers.{n}",
            f"mask_decoder.{both}.{theirs}",
            LINEAR,
        )
        for ours, both in (
            ("hypernetwork_{i}", "output_hypernetworks_mlps.{i}"),
            ("iou_head", "iou_prediction_head"),
        )
        for n, theirs in enumerate(("proj_in", "layers.0", "proj_out"))
    ),
]


def _explain(checkpoint: Any, expected: Mapping[str, Any]) -> str:
    """Returns a hint for a position table of another canvas, "" if the canvas is not the reason."""
    if checkpoint.table is None:
        return ""
    paths = flatten(expected).items()
    wanted = next((leaf.shape[1] for path, leaf in paths if path.endswith("pos_embed")), None)
    stored = np.shape(checkpoint.arrays.get(checkpoint.table.position_keys[checkpoint.format], ()))
    if wanted is None or len(stored) != 4 or stored[1] == wanted:
        return ""
    return (
        "; its positions are for another canvas: `segjax convert SRC DST --canvas PIXELS` "
        "resizes them"
    )


SAM = NameTable(
    model="SAM",
    formats={OFFICIAL: "segment-anything", HUGGINGFACE: "transformers' SamModel"},
    own_module="params/image_encoder",
    encoder="params/image_encoder",
    signatures={
        HUGGINGFACE: ("vision_encoder.", "shared_image_embedding."),
        OFFICIAL: ("image_encoder.", "prompt_encoder.", "mask_decoder."),
    },
    position_keys={OFFICIAL: "image_encoder.pos_embed", HUGGINGFACE: "vision_encoder.pos_embed"},
    entries=_ENTRIES,
    # transformers holds the Gaussian matrix twice. Its safetensors files leave the second one out.
    duplicates={
        HUGGINGFACE: {
            "prompt_encoder.shared_embedding.positional_embedding": _GAUSSIAN_MATRIX,
        }
    },
    derived_models={
        "mask_decoder.hf_token": "HQ-SAM",
        "image_encoder.layers.": "MobileSAM",
        "image_encoder.trunk.": "SAM 2",
        "sam_mask_decoder.": "SAM 2",
    },
    explain=_explain,
)
