"""Names of a ViT classifier's modules: ours, those of timm, and those of transformers.

MAE's fine-tuned files have timm's names. transformers' model is ViTForImageClassification, which
pools the class token. `segjax.weights.names` moves arrays by the table.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.layouts import LINEAR, NORM, ROW
from segjax.weights.names import HUGGINGFACE, OFFICIAL, NameTable
from segjax.weights.tables.mae import ENCODER, RENAMED_KEYS, START_ENCODER

_EPSILON = 1e-6  # added to the variance of features, as in `segjax.models.classifier`


def unfreeze_encoder(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a classifier with a frozen encoder as an ordinary one.

    The standardization of the features, (x - mean) / sqrt(variance + epsilon), goes into the head.
    Other classifiers are returned as they are.
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


def _read_options(state: Mapping[str, Any], format: str) -> dict[str, Any]:
    """Returns the number of classes and the pooling that the arrays tell."""
    key = {OFFICIAL: "head.weight", HUGGINGFACE: "classifier.weight"}[format]
    head = np.shape(state.get(key))
    classes = {"classes": head[0]} if len(head) == 2 else {}
    return classes | ({"pool": "mean"} if "fc_norm.weight" in state else {})


def _refuse(variables: Mapping[str, Any]) -> str:
    """Returns why no file fills these variables: those of a frozen encoder have statistics too."""
    if "encoder" in variables.get("constants", {}):
        return f"one whose encoder is frozen{START_ENCODER}"
    return ""


def _explain(checkpoint: Any, expected: Mapping[str, Any]) -> str:
    """Returns the hint to start from the encoder alone, and the classes if they differ."""
    wanted = expected["params"]["head"]["kernel"].shape[-1]
    if checkpoint.table is None:
        head = np.shape(checkpoint.arrays.get("params", {}).get("head", {}).get("kernel"))
        stored = head[-1] if head else None
    else:
        stored = checkpoint.size.get("classes")
    classes = ""
    if stored not in (None, wanted):
        classes = (
            f"its head knows {stored} classes, not {wanted}: set config.model.classes={stored}; "
        )
    return f"; {classes}config.init_from='mae:PATH' loads its encoder alone"


VIT = NameTable(
    model="ViT",
    own_module="params/head",
    formats={
        OFFICIAL: "facebookresearch/mae's fine-tuning",
        HUGGINGFACE: "transformers' ViTForImageClassification",
    },
    encoder="params/encoder",
    signatures={HUGGINGFACE: ("classifier.weight",), OFFICIAL: ("head.weight", "fc_norm.weight")},
    position_keys={OFFICIAL: "pos_embed", HUGGINGFACE: "vit.embeddings.position_embeddings"},
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
    renamed_keys={HUGGINGFACE: RENAMED_KEYS},
    read_options=_read_options,
    simplify=unfreeze_encoder,
    refuse=_refuse,
    usage=START_ENCODER,
    explain=_explain,
)
