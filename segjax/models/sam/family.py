"""The record of the SAM family."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from segjax.models.build import variable_shapes
from segjax.models.family import Family, describe_vit, keep_model
from segjax.models.sam.build import SIZES, build_sam, init_sam
from segjax.models.sam.resize_positions import resize_position_tables
from segjax.models.sam.sam import Sam


def resize_sam_positions(
    variables: Mapping[str, Any], stored: nn.Module, model: nn.Module
) -> Mapping[str, Any]:
    """Resizes the position tables to the canvas of `model`; see `resize_position_tables`.

    Raises:
      ValueError: the patch does not divide the canvas.
    """
    del stored
    return resize_position_tables(variables, variable_shapes(model))


def note_options(model: Sam) -> str:
    """Returns a warning about options that other libraries do not apply, "" for none."""
    notes = []
    if model.iou_sigmoid:
        notes.append("iou_sigmoid=True; apply a sigmoid to the IoUs that it predicts")
    if model.normalization == "minmax":
        notes.append("normalization='minmax'; scale each image to 0..1 instead of normalizing it")
    return "; and for ".join(notes)


FAMILY = Family(
    title="SAM",
    module=Sam,
    sizes=SIZES,
    build=build_sam,
    init=init_sam,
    task="promptable",
    encoder_path="image_encoder",
    name_tables=("segjax.weights.tables.sam:SAM",),
    usage="`segjax predict`, `segjax everything` and `segjax export --onnx` take a SAM",
    describe_encoder=describe_vit,
    fit_encoder=keep_model,
    fit_canvas=resize_sam_positions,
    recognize="segjax.inference.recognize:recognize_vit",
    conversion_note=note_options,
)
