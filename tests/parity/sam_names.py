"""Our parameters under the names and layouts of segment-anything and of transformers' SamModel."""

import re

import jax
import numpy as np
from golden.drawn_weights import path_of

_ATTENTIONS = {
    "self_attention": "self_attn",
    "tokens_to_image": "cross_attn_token_to_image",
    "image_to_tokens": "cross_attn_image_to_token",
}
_SINGLE = {
    "params/image_encoder/pos_embed": "image_encoder.pos_embed",
    "constants/prompt_encoder/gaussian_matrix": "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "params/prompt_encoder/background": "prompt_encoder.point_embeddings.0.weight",
    "params/prompt_encoder/foreground": "prompt_encoder.point_embeddings.1.weight",
    "params/prompt_encoder/top_left": "prompt_encoder.point_embeddings.2.weight",
    "params/prompt_encoder/bottom_right": "prompt_encoder.point_embeddings.3.weight",
    "params/prompt_encoder/not_a_point": "prompt_encoder.not_a_point_embed.weight",
    "params/prompt_encoder/no_mask": "prompt_encoder.no_mask_embed.weight",
    "params/mask_decoder/iou_token": "mask_decoder.iou_token.weight",
    "params/mask_decoder/mask_tokens": "mask_decoder.mask_tokens.weight",
}
_MODULES = [
    (r"image_encoder/patch_embed", r"image_encoder.patch_embed.proj"),
    (r"image_encoder/trunk/block_(\d+)/norm_(\d)", r"image_encoder.blocks.\1.norm\2"),
    (r"image_encoder/trunk/block_(\d+)/(qkv|proj)", r"image_encoder.blocks.\1.attn.\2"),
    (r"image_encoder/trunk/block_(\d+)/mlp/layer_0", r"image_encoder.blocks.\1.mlp.lin1"),
    (r"image_encoder/trunk/block_(\d+)/mlp/layer_1", r"image_encoder.blocks.\1.mlp.lin2"),
    (r"image_encoder/neck_conv_1", r"image_encoder.neck.0"),
    (r"image_encoder/neck_norm_1", r"image_encoder.neck.1"),
    (r"image_encoder/neck_conv_2", r"image_encoder.neck.2"),
    (r"image_encoder/neck_norm_2", r"image_encoder.neck.3"),
    (r"prompt_encoder/mask_conv_1", r"prompt_encoder.mask_downscaling.0"),
    (r"prompt_encoder/mask_norm_1", r"prompt_encoder.mask_downscaling.1"),
    (r"prompt_encoder/mask_conv_2", r"prompt_encoder.mask_downscaling.3"),
    (r"prompt_encoder/mask_norm_2", r"prompt_encoder.mask_downscaling.4"),
    (r"prompt_encoder/mask_conv_3", r"prompt_encoder.mask_downscaling.6"),
    *(
        (rf"mask_decoder/transformer/block_(\d)/{ours}/(\w+)", rf"mask_decoder.transformer.layers.\1.{theirs}.\2_proj")
        for ours, theirs in _ATTENTIONS.items()
    ),
    (r"mask_decoder/transformer/block_(\d)/norm_(\d)", r"mask_decoder.transformer.layers.\1.norm\2"),
    (r"mask_decoder/transformer/block_(\d)/mlp/layer_0", r"mask_decoder.transformer.layers.\1.mlp.lin1"),
    (r"mask_decoder/transformer/block_(\d)/mlp/layer_1", r"mask_decoder.transformer.layers.\1.mlp.lin2"),
    (
        r"mask_decoder/transformer/final_tokens_to_image/(\w+)",
        r"mask_decoder.transformer.final_attn_token_to_image.\1_proj",
    ),
    (r"mask_decoder/transformer/final_norm", r"mask_decoder.transformer.norm_final_attn"),
    (r"mask_decoder/upscale_1", r"mask_decoder.output_upscaling.0"),
    (r"mask_decoder/upscale_norm", r"mask_decoder.output_upscaling.1"),
    (r"mask_decoder/upscale_2", r"mask_decoder.output_upscaling.3"),
    (r"mask_decoder/hypernetwork_(\d)/layer_(\d)", r"mask_decoder.output_hypernetworks_mlps.\1.layers.\2"),
    (r"mask_decoder/iou_head/layer_(\d)", r"mask_decoder.iou_prediction_head.layers.\1"),
]
_TRANSFORMERS = [
    (r"^image_encoder\.blocks\.(\d+)\.norm", r"vision_encoder.layers.\1.layer_norm"),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.neck\.0", "vision_encoder.neck.conv1"),
    (r"^image_encoder\.neck\.1", "vision_encoder.neck.layer_norm1"),
    (r"^image_encoder\.neck\.2", "vision_encoder.neck.conv2"),
    (r"^image_encoder\.neck\.3", "vision_encoder.neck.layer_norm2"),
    (r"^image_encoder\.patch_embed\.proj", "vision_encoder.patch_embed.projection"),
    (r"^image_encoder", "vision_encoder"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"point_embeddings", "point_embed"),
    (r"mask_downscaling\.0", "mask_embed.conv1"),
    (r"mask_downscaling\.1", "mask_embed.layer_norm1"),
    (r"mask_downscaling\.3", "mask_embed.conv2"),
    (r"mask_downscaling\.4", "mask_embed.layer_norm2"),
    (r"mask_downscaling\.6", "mask_embed.conv3"),
    (r"(transformer\.layers\.\d)\.norm", r"\1.layer_norm"),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"output_upscaling\.0", "upscale_conv1"),
    (r"output_upscaling\.1", "upscale_layer_norm"),
    (r"output_upscaling\.3", "upscale_conv2"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0", r"\1.proj_in"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.1", r"\1.layers.0"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.2", r"\1.proj_out"),
]


def torch_state(variables) -> dict[str, np.ndarray]:
    """segment-anything's state dict of our variables."""
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    return dict(_entry(path_of(path), np.asarray(leaf)) for path, leaf in leaves)


def transformers_state(variables) -> dict[str, np.ndarray]:
    """SamModel's state dict of our variables; the Gaussian matrix is in it twice."""
    state = {}
    for name, value in torch_state(variables).items():
        for pattern, replacement in _TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    matrix = state["prompt_encoder.shared_embedding.positional_embedding"]
    return state | {"shared_image_embedding.positional_embedding": matrix}


def _entry(path: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    if path in _SINGLE:
        single_row = value.ndim == 1
        return _SINGLE[path], value[None] if single_row else value
    module, leaf = path.removeprefix("params/").rsplit("/", 1)
    if leaf.startswith("rel_pos"):
        return re.sub(r".*block_(\d+)", r"image_encoder.blocks.\1.attn.", module) + leaf, value
    names = [re.sub(ours, theirs, module) for ours, theirs in _MODULES if re.fullmatch(ours, module)]
    if len(names) != 1:
        raise KeyError(f"{path} has {len(names)} names in torch")
    if leaf != "kernel":
        return f"{names[0]}.{'weight' if leaf == 'scale' else leaf}", value
    return f"{names[0]}.weight", _kernel(module, value)


def _kernel(module: str, value: np.ndarray) -> np.ndarray:
    if "mask_conv" in module:  # ours is the flattened convolution
        size = 1 if module.endswith("3") else 2
        value = value.reshape(size, size, -1, value.shape[-1])
    if "upscale" in module:
        return value.transpose(0, 3, 1, 2)
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
