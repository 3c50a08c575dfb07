"""Names of CLIP's modules: ours, those of OpenAI and open_clip, and those of transformers.

OpenAI stores the projections as (width, embedding), transformers as (embedding, width), so each has
a table of its own.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.layouts import CONV, LINEAR, MATRIX, NORM, SAME, Layout
from segjax.weights.names import HUGGINGFACE, OFFICIAL, Entry, NameTable

_PARTS = ("q", "k", "v")
# Our tower -> prefix in OpenAI's files, prefix in transformers'
_TOWERS = {"image/encoder": ("visual.", "vision_model."), "text": ("", "text_model.")}


def _list_entries(format: str, projection: Layout) -> list[Entry]:
    """Returns the entries of one format.

    Args:
      format: "official" or "huggingface".
      projection: layout of the matrices into the shared space.
    """
    official = format == OFFICIAL
    array = {"": ("", SAME)}
    rows = [
        (
            "image/encoder/cls_token",
            "visual.class_embedding",
            "vision_model.embeddings.class_embedding",
        ),
        (
            "image/encoder/pos_embed",
            "visual.positional_embedding",
            "vision_model.embeddings.position_embedding.weight",
        ),
        (
            "text/token_embed",
            "token_embedding.weight",
            "text_model.embeddings.token_embedding.weight",
        ),
        (
            "text/pos_embed",
            "positional_embedding",
            "text_model.embeddings.position_embedding.weight",
        ),
        ("logit_scale", "logit_scale", "logit_scale"),
    ]
    entries = [(f"params/{ours}", theirs[not official], array) for ours, *theirs in rows]
    rows = [
        ("image/encoder/norm_pre", "visual.ln_pre", "vision_model.pre_layrnorm"),
        ("image/norm_post", "visual.ln_post", "vision_model.post_layernorm"),
        ("text/norm", "ln_final", "text_model.final_layer_norm"),
    ]
    entries += [(f"params/{ours}", theirs[not official], NORM) for ours, *theirs in rows]

    # Patch embedding and projections, which have no bias
    patches = ("visual.conv1", "vision_model.embeddings.patch_embedding")[not official]
    entries.append(("params/image/encoder/patch_embed", patches, {"kernel": ("weight", CONV)}))
    rows = [
        ("image", "visual.proj", "visual_projection.weight"),
        ("text", "text_projection", "text_projection.weight"),
    ]
    entries += [
        (f"params/{ours}/proj/kernel", theirs[not official], {"": ("", projection)})
        for ours, *theirs in rows
    ]
    for ours, prefixes in _TOWERS.items():
        entries += _list_blocks(
            f"params/{ours}/trunk/block_{{i}}", prefixes[not official], official
        )
    return entries


def _list_blocks(ours: str, prefix: str, official: bool) -> list[Entry]:
    """Returns the entries of a tower's blocks."""
    block = prefix + ("transformer.resblocks.{i}." if official else "encoder.layers.{i}.")
    rows = [
        ("norm_1", "ln_1", "layer_norm1", NORM),
        ("norm_2", "ln_2", "layer_norm2", NORM),
        ("proj", "attn.out_proj", "self_attn.out_proj", LINEAR),
        ("mlp/layer_0", "mlp.c_fc", "mlp.fc1", LINEAR),
        ("mlp/layer_1", "mlp.c_proj", "mlp.fc2", LINEAR),
    ]
    entries = [
        (f"{ours}/{own}", block + theirs[not official], leaves) for own, *theirs, leaves in rows
    ]
    for leaf, name, layout in (("kernel", "weight", MATRIX), ("bias", "bias", SAME)):
        theirs = f"{block}attn.in_proj_{name}"
        if not official:
            theirs = [f"{block}self_attn.{part}_proj.{name}" for part in _PARTS]
        entries.append((f"{ours}/qkv/{leaf}", theirs, {"": ("", layout)}))
    return entries


def _read_options(state: Mapping[str, Any], format: str) -> dict[str, Any]:
    """Returns the sizes of the text tower and the canvas that the arrays tell."""
    keys = {
        OFFICIAL: (
            "visual.conv1.weight",
            "visual.positional_embedding",
            "token_embedding.weight",
            "positional_embedding",
            "text_projection",
            "transformer.resblocks.",
        ),
        HUGGINGFACE: (
            "vision_model.embeddings.patch_embedding.weight",
            "vision_model.embeddings.position_embedding.weight",
            "text_model.embeddings.token_embedding.weight",
            "text_model.embeddings.position_embedding.weight",
            "text_projection.weight",
            "text_model.encoder.layers.",
        ),
    }[format]
    patches, positions, tokens, context, projection = (np.shape(state.get(key)) for key in keys[:5])
    options: dict[str, Any] = {}
    if len(patches) == 4 and len(positions) == 2:
        options["canvas"] = patches[-1] * math.isqrt(max(positions[0] - 1, 0))
    if len(tokens) == 2:
        options |= {"vocabulary": tokens[0], "text_width": tokens[1]}
    if len(context) == 2:
        options["context"] = context[0]
    if len(projection) == 2:
        options["embedding"] = projection[0 if format == HUGGINGFACE else 1]
    numbers = {key[len(keys[5]) :].split(".", 1)[0] for key in state if key.startswith(keys[5])}
    if depths := [int(number) for number in numbers if number.isdecimal()]:
        options["text_depth"] = 1 + max(depths)
    return options


_SHARED = dict(
    model="CLIP",
    own_module="params/text",
    encoder="params/image/encoder",
    read_options=_read_options,
    usage="; `segjax label` names masks with it",
)
OPENAI = NameTable(
    formats={OFFICIAL: "OpenAI's CLIP or open_clip"},
    signatures={OFFICIAL: ("visual.class_embedding",)},
    position_keys={OFFICIAL: "visual.positional_embedding"},
    entries=_list_entries(OFFICIAL, SAME),
    # Sizes that OpenAI's archives hold as arrays, and masks
    ignored_keys={OFFICIAL: r"input_resolution|context_length|vocab_size|attn_mask"},
    # open_clip's models with a text tower of their own
    renamed_keys={
        OFFICIAL: (
            (r"^text\.(transformer|token_embedding|positional_embedding|ln_final)", r"\1"),
            (r"^text\.(text_projection|attn_mask)$", r"\1"),
        )
    },
    derived_models={
        "visual.attn_pool.": "open_clip's CoCa",
        "text_decoder.": "open_clip's CoCa",
        "text.cls_emb": "open_clip's CoCa",
    },
    **_SHARED,
)
HUGGINGFACE_CLIP = NameTable(
    formats={HUGGINGFACE: "transformers' CLIPModel"},
    signatures={HUGGINGFACE: ("vision_model.embeddings.class_embedding",)},
    position_keys={HUGGINGFACE: "vision_model.embeddings.position_embedding.weight"},
    entries=_list_entries(HUGGINGFACE, MATRIX),
    # Buffers in files of older versions
    ignored_keys={HUGGINGFACE: r"(text|vision)_model\.embeddings\.position_ids"},
    **_SHARED,
)
