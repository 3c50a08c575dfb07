"""MAE's modules under three names: ours, the paper's code's (the published .pth files) and transformers'.

transformers' is ViTMAEForPreTraining. `segjax.weights.names` moves arrays by the table.
"""

from collections.abc import Mapping

import numpy as np

from segjax.ops.positions import position_table
from segjax.weights.layouts import CONVOLUTION, LINEAR, NORM, TOKEN
from segjax.weights.names import HUGGINGFACE, OFFICIAL, Entry, NameTable

_POSITIONS = {
    OFFICIAL: ("pos_embed", "decoder_pos_embed"),
    HUGGINGFACE: ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"),
}


def blocks_of(ours: str, official: str, theirs: str) -> list[Entry]:
    """Entries of a trunk's blocks."""
    return [
        (
            f"{ours}/trunk/block_{{i}}/{module}",
            f"{official}.{{i}}.{name}",
            _within(f"{theirs}.{{i}}", other),
            leaves,
        )
        for module, name, other, leaves in (
            ("norm_1", "norm1", "layernorm_before", NORM),
            ("norm_2", "norm2", "layernorm_after", NORM),
            (
                "qkv",
                "attn.qkv",
                ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
                LINEAR,
            ),
            ("proj", "attn.proj", "attention.o_proj", LINEAR),
            ("mlp/layer_0", "mlp.fc1", "mlp.fc1", LINEAR),
            ("mlp/layer_1", "mlp.fc2", "mlp.fc2", LINEAR),
        )
    ]


def _within(block: str, names: str | tuple[str, ...]) -> str | list[str]:
    return f"{block}.{names}" if isinstance(names, str) else [f"{block}.{name}" for name in names]


def _position_tables(
    shapes: Mapping[str, tuple[int, ...]], family: str, side: int
) -> dict[str, np.ndarray]:
    """float32 [1, 1 + side * side, D] of the encoder and, where the arrays have one, the decoder; row 0 is zeros."""
    tables = {}
    for key, path in zip(
        _POSITIONS[family], ("params/encoder/cls_token", "params/decoder/mask_token"), strict=True
    ):
        if path in shapes:
            tables[key] = position_table((side, side), shapes[path][0])[None]
    return tables


# What MAE's encoder and a ViT's are called alike.
ENCODER: list[Entry] = [
    ("params/encoder/cls_token", "cls_token", "vit.embeddings.cls_token", {"": ("", TOKEN)}),
    (
        "params/encoder/patch_embed",
        "patch_embed.proj",
        "vit.embeddings.patch_embeddings.projection",
        CONVOLUTION,
    ),
    *blocks_of("params/encoder", "blocks", "vit.layers"),
    ("params/encoder/norm", "norm", "vit.layernorm", NORM),
]

# The published files and transformers 4 have the left ones, and so does what transformers 5 writes, with the
# decoder's blocks named after the encoder's. Its models in memory have the right ones.
SPELLINGS = (
    (r"^vit\.encoder\.layer\.", "vit.layers."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (
        r"\.attention\.attention\.(query|key|value)\.",
        lambda match: f".attention.{match[1][0]}_proj.",
    ),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)

MAE = NameTable(
    model="MAE",
    own="params/decoder",
    families={OFFICIAL: "facebookresearch/mae", HUGGINGFACE: "transformers' ViTMAEForPreTraining"},
    encoder="params/encoder",
    marks={
        HUGGINGFACE: ("vit.embeddings.", "vit.encoder.", "vit.layers."),
        OFFICIAL: ("cls_token", "patch_embed."),
    },
    positions={family: keys[0] for family, keys in _POSITIONS.items()},
    entries=[
        *ENCODER,
        ("params/decoder/embed", "decoder_embed", "decoder.decoder_embed", LINEAR),
        ("params/decoder/mask_token", "mask_token", "decoder.mask_token", {"": ("", TOKEN)}),
        *blocks_of("params/decoder", "decoder_blocks", "decoder.decoder_layers"),
        ("params/decoder/norm", "decoder_norm", "decoder.decoder_norm", NORM),
        ("params/decoder/predict", "decoder_pred", "decoder.decoder_pred", LINEAR),
    ],
    spellings={HUGGINGFACE: SPELLINGS},
    fixed=_position_tables,
)
