"""What a run can start from besides a checkpoint of its own model: `config.init_from = "mae:PATH"`, "resnet:PATH"."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from segjax.models.build import shapes_of
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.from_mae import encoder_from_mae
from segjax.models.mae import Mae, build_mae
from segjax.models.sam.sam import Sam
from segjax.weights.checkpoint import Checkpoint, read_checkpoint
from segjax.weights.mae_table import MAE
from segjax.weights.torchvision_table import TORCHVISION_RESNETS
from segjax.weights.tree import CheckpointError

logger = logging.getLogger(__name__)


def sam_from_mae(path: str, sam: Sam, expected: Mapping[str, Any]) -> dict[str, Any]:
    """{"params": {"image_encoder": ...}} of a SAM from a MAE, without the neck; see `_encoder_from_mae`."""
    return {"params": {"image_encoder": _encoder_from_mae(path, sam.heads, expected["params"]["image_encoder"])}}


def detector_from(kind: str, path: str, model: MaskRcnn, expected: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone of a detector from what was trained on whole pictures.

    Args:
      kind: "mae" for a ViTDet, see `_encoder_from_mae`; "resnet" for a file of torchvision's ResNet classifiers, whose
        last layer is left alone.
      path: of the checkpoint. model: the detector. expected: its {"params", "constants"}, of anything with a shape.

    Returns:
      {"params": {"backbone": ...}, "constants": ...}, what is frozen among the constants.

    Raises:
      CheckpointError: there is no such model, or an array of it is missing or misshapen.
      ValueError: an unknown kind, or a model that does not start from it.
    """
    wanted = {name: {"backbone": tree["backbone"]} for name, tree in expected.items() if "backbone" in tree}
    if kind == "mae" and model.backbone == "vit":
        return {"params": {"backbone": _encoder_from_mae(path, model.heads, wanted["params"]["backbone"])}}
    if kind != "resnet" or model.backbone == "vit":
        raise ValueError(
            f"a detector on {model.backbone} cannot start from '{kind}:{path}': a ResNet starts from torchvision's "
            "classifiers, 'resnet:PATH', a ViT from a MAE, 'mae:PATH', and both from their own checkpoints"
        )
    if model.rules.stride_in_1x1 or "bn" not in model.norm or model.norm_epsilon == 0:
        raise ValueError(
            "torchvision's ResNets have batch norms of epsilon 1e-5 and strides in 3x3 convolutions; the model has "
            f"norm {model.norm!r}, norm_epsilon {model.norm_epsilon}, conventions {model.conventions!r}. Set norm to "
            "'frozen_bn' or 'bn', norm_epsilon to 1e-5 and conventions to 'torchvision' or 'detectron2_rgb'"
        )
    checkpoint = read_checkpoint(path)
    if checkpoint.table is not TORCHVISION_RESNETS:
        raise CheckpointError(
            f"{checkpoint.source} is no ResNet of torchvision's; expected layer1.0.conv1.weight and so on"
        )
    found, rest = TORCHVISION_RESNETS.part_of(
        checkpoint.arrays, wanted, family=checkpoint.family, source=checkpoint.source
    )
    if deeper := [key for key in rest if not key.startswith("fc.")]:
        raise CheckpointError(f"{checkpoint.source} is of another depth than {model.backbone}: it has {deeper[0]} too")
    logger.info("%s from %s; the pyramid and the heads are fresh", model.backbone, path)
    return jax.tree.map(lambda x: np.array(x, np.float32, order="C"), found)


def _encoder_from_mae(path: str, heads: int, target: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an encoder like SAM's from a MAE: a run of ours, or any file that `read_checkpoint` reads.

    Official files of the encoder alone will do, and of a fine-tuned model, whose positions may have been trained: what
    the encoder has no place for is left alone. Plain ViTs with the same names (timm's, DINO's) are taken alike.

    Args:
      path: of the checkpoint. heads: of the encoder's blocks. target: its parameters, of anything with a shape.

    Raises:
      CheckpointError: there is no MAE, or an array of its encoder is missing or misshapen.
      ValueError: its encoder is of another width, depth or (as far as it says) number of heads.
    """
    checkpoint = read_checkpoint(path)
    read = _ours(checkpoint, heads) if checkpoint.table is None else _published(checkpoint)
    encoder, grid, patch, positions = read
    taken = encoder_from_mae(encoder, grid, target, positions)
    cells, wanted = target["pos_embed"].shape[1:3], target["patch_embed"]["kernel"].shape[0]
    resized = [f"positions from {grid} to {tuple(cells)} patches"] if grid != tuple(cells) else []
    resized += [f"patches from {patch} to {wanted} pixels"] if patch != wanted else []
    logger.info(
        "encoder from the MAE in %s; %s; what follows it is fresh",
        path,
        "bicubically resized: " + ", ".join(resized) if resized else "nothing resized",
    )
    return taken


def _ours(checkpoint: Checkpoint, heads: int) -> tuple[dict[str, Any], tuple[int, int], int, None]:
    """(encoder's parameters, grid, patch, None for positions that are computed) of a run or file of ours.

    It is held against the model that it says it is.
    """
    options = dict(checkpoint.saved.get("model", {}))
    if not str(options.get("name", "")).startswith("mae_"):
        raise CheckpointError(
            f"{checkpoint.source} holds {options.get('name', 'a model that it does not name')}, expected a MAE; to go "
            "on from a checkpoint of the same model leave out 'mae:'"
        )
    model = build_mae(**options)
    if model.heads != heads:
        raise ValueError(
            f"{checkpoint.source} attends with {model.heads} heads, the model with {heads}; make them agree"
        )
    return checkpoint.variables(shapes_of(model))["params"]["encoder"], model.grid, model.patch, None


def _published(checkpoint: Checkpoint) -> tuple[dict[str, Any], tuple[int, int], int, np.ndarray]:
    """The same of a file under the names of others."""
    size = checkpoint.size
    if checkpoint.table is not MAE or "canvas" not in size or "depth" not in size:
        raise CheckpointError(
            f"{checkpoint.source} is no MAE: expected a state dict with {MAE.positions[checkpoint.family]} and blocks; "
            "to go on from a checkpoint of the same model leave out 'mae:'"
        )
    model = Mae(**size, heads=1)  # no array says how many heads there are, and none depends on it
    encoder = shapes_of(model)["params"]["encoder"]
    wanted = {"params": {"encoder": {name: encoder[name] for name in ("patch_embed", "trunk")}}}
    found, _ = MAE.part_of(checkpoint.arrays, wanted, family=checkpoint.family, source=checkpoint.source)
    arrays = jax.tree.map(lambda x: np.array(x, np.float32, order="C"), found)
    positions = np.asarray(checkpoint.arrays[MAE.positions[checkpoint.family]], np.float32)[0, 1:]  # without the class
    return arrays["params"]["encoder"], model.grid, model.patch, positions.reshape(*model.grid, -1)
