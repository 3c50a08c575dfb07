"""Names of MAE's modules: ours, those of the paper's code, and those of transformers.

The published .pth files have the names of the paper's code. transformers' model is
ViTMAEForPreTraining. `segjax.weights.names` moves arrays by the table.
"""

from collections.abc import Mapping

import numpy as np

from segjax.ops.positions import make_position_table
from segjax.weights.layouts import CONVOLUTION, LINEAR, NORM, TOKEN
from segjax.weights.names import HUGGINGFACE, OFFICIAL, Entry, NameTable

_POSITIONS = {
    OFFICIAL: ("pos_embed", "decoder_pos_embed"),
    HUGGINGFACE: ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"),
}


def list_blocks(ours: str, official: str, theirs: str) -> list[Entry]:
    """Returns the entries of a trunk's blocks.

    Args:
      ours: our path of the trunk's parent.
      official: the paper's code's name of the blocks.
      theirs: transformers' name of the blocks.
    """
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
    shapes: Mapping[str, tuple[int, ...]], format: str, side: int
) -> dict[str, np.ndarray]:
    """Computes the sine-cosine tables of the encoder and, if the arrays have one, the decoder.

    Returns:
      float32 [1, 1 + side * side, D] by key. Row 0 is the class token's, zeros.
    """
    tables = {}
    for key, path in zip(
        _POSITIONS[format], ("params/encoder/cls_token", "params/decoder/mask_token"), strict=True
    ):
        if path in shapes:
            tables[key] = make_position_table((side, side), shapes[path][0])[None]
    return tables


def has_class_position(state: Mapping[str, np.ndarray]) -> bool:
    """Tells whether the class token of a file with the paper's names has a learned position.

    A MAE's has none. DINO's files have the names of a MAE without its decoder, and differ in this.
    """
    table = state.get("pos_embed")
    return np.ndim(table) == 3 and bool(np.any(np.asarray(table[0, 0], np.float32)))


def _is_mae(state: Mapping[str, np.ndarray]) -> bool:
    return "decoder_embed.weight" in state or not has_class_position(state)


START_ENCODER = "; an encoder starts from it with config.init_from='mae:PATH'"

# Entries that MAE's encoder shares with a classifier's.
ENCODER: list[Entry] = [
    ("params/encoder/cls_token", "cls_token", "vit.embeddings.cls_token", {"": ("", TOKEN)}),
    (
        "params/encoder/patch_embed",
        "patch_embed.proj",
        "vit.embeddings.patch_embeddings.projection",
        CONVOLUTION,
    ),
    *list_blocks("params/encoder", "blocks", "vit.layers"),
    ("params/encoder/norm", "norm", "vit.layernorm", NORM),
]

# Left: keys in the published files and in files that transformers 4 and 5 write, which name the
# decoder's blocks after the encoder's. Right: keys of transformers 5's models in memory.
RENAMED_KEYS = (
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
    own_module="params/decoder",
    formats={OFFICIAL: "facebookresearch/mae", HUGGINGFACE: "transformers' ViTMAEForPreTraining"},
    encoder="params/encoder",
    signatures={
        HUGGINGFACE: ("vit.embeddings.", "vit.encoder.", "vit.layers."),
        OFFICIAL: ("cls_token", "patch_embed."),
    },
    # A classifier's file has all that marks a MAE's, and a head.
    foreign_keys={
        HUGGINGFACE: ("classifier.weight",),
        OFFICIAL: ("head.weight", "fc_norm.weight", "blocks.0.ls1."),  # DINOv2's LayerScale
    },
    accepts=_is_mae,
    position_keys={format: keys[0] for format, keys in _POSITIONS.items()},
    entries=[
        *ENCODER,
        ("params/decoder/embed", "decoder_embed", "decoder.decoder_embed", LINEAR),
        ("params/decoder/mask_token", "mask_token", "decoder.mask_token", {"": ("", TOKEN)}),
        *list_blocks("params/decoder", "decoder_blocks", "decoder.decoder_layers"),
        ("params/decoder/norm", "decoder_norm", "decoder.decoder_norm", NORM),
        ("params/decoder/predict", "decoder_pred", "decoder.decoder_pred", LINEAR),
    ],
    renamed_keys={HUGGINGFACE: RENAMED_KEYS},
    computed_tables=_position_tables,
    usage=START_ENCODER,
)
