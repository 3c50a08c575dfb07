"""A classifier's modules under three names: ours, timm's (which MAE's fine-tuned files have) and transformers'.

transformers' is ViTForImageClassification, which pools the class token. `segjax.weights.names` moves arrays by it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.layouts import LINEAR, NORM, ROW
from segjax.weights.names import HUGGINGFACE, OFFICIAL, NameTable
from segjax.weights.tables.mae import ENCODER, SPELLINGS

_EPSILON = 1e-6  # of the standardisation, `segjax.models.classifier`


def thawed(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """A classifier with a frozen encoder as one that is trained whole: the standardisation goes into the head.

    Others are given back as they are.
    """
    constants, head = variables.get("constants", {}), variables["params"]["head"]
    if "encoder" not in constants:
        return variables
    mean, variance = (
        np.asarray(constants["statistics"][name], np.float64) for name in ("mean", "variance")
    )
    kernel = np.asarray(head["kernel"], np.float64) / np.sqrt(variance + _EPSILON)[:, None]
    bias = np.asarray(head["bias"], np.float64) - mean @ kernel
    head = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return {"params": {"encoder": constants["encoder"], "head": head}, "constants": {}}


def _said(state: Mapping[str, Any], family: str) -> dict[str, Any]:
    head = np.shape(state.get({OFFICIAL: "head.weight", HUGGINGFACE: "classifier.weight"}[family]))
    return ({"classes": head[0]} if len(head) == 2 else {}) | (
        {"pool": "mean"} if "fc_norm.weight" in state else {}
    )


VIT = NameTable(
    model="ViT",
    own="params/head",
    families={
        OFFICIAL: "facebookresearch/mae's fine-tuning",
        HUGGINGFACE: "transformers' ViTForImageClassification",
    },
    encoder="params/encoder",
    marks={HUGGINGFACE: ("classifier.weight",), OFFICIAL: ("head.weight", "fc_norm.weight")},
    positions={OFFICIAL: "pos_embed", HUGGINGFACE: "vit.embeddings.position_embeddings"},
    entries=[
        *ENCODER,
        (
            "params/encoder/pos_embed",
            "pos_embed",
            "vit.embeddings.position_embeddings",
            {"": ("", ROW)},
        ),
        ("params/encoder/fc_norm", "fc_norm", (), NORM),
        ("params/head", "head", "classifier", LINEAR),
    ],
    spellings={HUGGINGFACE: SPELLINGS},
    said=_said,
    plain=thawed,
)
