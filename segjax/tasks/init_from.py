"""What a run can start from besides a checkpoint of its own model: `config.init_from = "mae:PATH"`, "resnet:PATH",
"detector:PATH"."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from segjax.models.build import build_model, shapes_of
from segjax.models.classifier import Classifier, classifier_encoder
from segjax.models.detection.heads import STAGES
from segjax.models.detection.layers import numbered
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.from_mae import TakenEncoder, windowed_encoder
from segjax.models.mae import Mae
from segjax.models.sam.sam import Sam
from segjax.ops.positions import position_table
from segjax.weights.checkpoint import Checkpoint, read_checkpoint
from segjax.weights.tables.detectron2 import DETECTRON2_DETECTORS
from segjax.weights.tables.mae import MAE
from segjax.weights.tables.torchvision import TORCHVISION_DETECTORS, TORCHVISION_RESNETS
from segjax.weights.tables.vit import VIT
from segjax.weights.tree import CheckpointError, check_parameters, flatten, placed, unflatten

logger = logging.getLogger(__name__)

_BLOCKS = ("patch_embed", "trunk")


def sam_from_mae(path: str, sam: Sam, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a SAM's image encoder from a MAE, see `read_encoder`.

    Args:
      path: of the checkpoint. sam: the model. expected: its {"params", "constants"}, of anything with a shape.

    Returns:
      {"params": {"image_encoder": ...}}, without the neck.

    Raises:
      CheckpointError: there is no MAE, or an array of its encoder is missing or misshapen.
      ValueError: its encoder is of another width, depth or (as far as it says) number of heads than SAM's.
    """
    target, fresh = (
        expected["params"]["image_encoder"],
        "neck, prompt encoder and mask decoder are fresh",
    )
    return {"params": {"image_encoder": _windowed(path, sam.heads, target, "SAM", fresh)}}


def detector_from(
    kind: str, path: str, model: MaskRcnn, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """The backbone of a detector from what was trained on whole pictures, or nearly all of it from another detector.

    Args:
      kind: "mae" for a ViTDet, see `read_encoder`; "resnet" for a file of torchvision's ResNet classifiers, whose
        last layer is left alone; "detector" for one of other classes, see `detector_of_other_classes`.
      path: of the checkpoint. model: the detector. expected: its {"params", "constants"}, of anything with a shape.

    Returns:
      {"params": {"backbone": ...}, "constants": ...}, what is frozen among the constants.

    Raises:
      CheckpointError: there is no such model, or an array of it is missing or misshapen.
      ValueError: an unknown kind, or a model that does not start from it.
    """
    if kind == "detector":
        return detector_of_other_classes(path, expected)
    wanted = {
        name: {"backbone": tree["backbone"]}
        for name, tree in expected.items()
        if "backbone" in tree
    }
    if kind == "mae" and model.backbone == "vit":
        target, fresh = wanted["params"]["backbone"], "the pyramid and the heads are fresh"
        return {"params": {"backbone": _windowed(path, model.heads, target, "ViTDet", fresh)}}
    if kind != "resnet" or model.backbone == "vit":
        raise ValueError(
            f"a detector on {model.backbone} cannot start from '{kind}:{path}': a ResNet starts from torchvision's "
            "classifiers, 'resnet:PATH', a ViT from a MAE, 'mae:PATH', and both from their own checkpoints or, with "
            "other classes, from another detector's, 'detector:PATH'"
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
        raise CheckpointError(
            f"{checkpoint.source} is of another depth than {model.backbone}: it has {deeper[0]} too"
        )
    logger.info("%s from %s; the pyramid and the heads are fresh", model.backbone, path)
    return jax.tree.map(lambda x: np.array(x, np.float32, order="C"), found)


def classifier_from_mae(
    path: str, model: Classifier, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """A classifier's encoder from a MAE, see `read_encoder`; arguments and errors as `sam_from_mae`.

    Returns:
      {"params": {"encoder": ...}}, or "constants" for a frozen one.
    """
    kind = "constants" if model.frozen else "params"
    target = expected[kind]["encoder"]
    wanted = (*_BLOCKS, "cls_token", *(["norm"] if "norm" in target else []))
    taken = read_encoder(path, wanted, heads=model.heads, model="classifier")
    encoder = classifier_encoder(taken, target)
    fresh = (
        "the head is fresh"
        if "norm" in target
        else "the norm behind the mean and the head are fresh"
    )
    _log(
        "frozen encoder" if model.frozen else "encoder", path, taken, model.grid, model.patch, fresh
    )
    return {kind: {"encoder": encoder}}


def read_encoder(path: str, wanted: tuple[str, ...], *, heads: int, model: str) -> TakenEncoder:
    """The encoder of a MAE: a run of ours, or any file that `read_checkpoint` reads.

    Official files of the encoder alone will do. Plain ViTs of the same build are taken alike: a classifier of ours,
    official files of a fine-tuned model, whose positions may have been trained, timm's and DINO's.

    Args:
      wanted: which modules of it. heads, model: of whom it is for.

    Raises:
      CheckpointError, ValueError: as `sam_from_mae`.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.table is None:
        return _ours(checkpoint, wanted, heads, model)
    return _published(checkpoint, wanted)


def _ours(checkpoint: Checkpoint, wanted: tuple[str, ...], heads: int, model: str) -> TakenEncoder:
    """Of a run or file of ours, which is held against the model that it says it is."""
    options = dict(checkpoint.saved.get("model", {}))
    if not str(options.get("name", "")).startswith(("mae_", "vit_")):
        raise CheckpointError(
            f"{checkpoint.source} holds {options.get('name', 'a model that it does not name')}, expected a MAE; to go "
            "on from a checkpoint of the same model leave out 'mae:'"
        )
    source = build_model(**options)
    if source.heads != heads:
        raise ValueError(
            f"{checkpoint.source} attends with {source.heads} heads, the {model} with {heads}; make them agree"
        )
    variables = checkpoint.variables(shapes_of(source))
    encoder = variables["constants" if getattr(source, "frozen", False) else "params"]["encoder"]
    if absent := [name for name in wanted if name not in encoder]:
        raise CheckpointError(
            f"{checkpoint.source} pools the mean of its patches and has no {', '.join(absent)}; expected a MAE, or a "
            "classifier with pool='token'. Or set config.model.pool='mean' here too"
        )
    positions = encoder.get("pos_embed", position_table(source.grid, source.width))
    return TakenEncoder(
        {name: encoder[name] for name in wanted}, source.grid, source.patch, positions
    )


def _published(checkpoint: Checkpoint, wanted: tuple[str, ...]) -> TakenEncoder:
    """Of a file under the names of others."""
    size, table = checkpoint.size, checkpoint.table
    if table not in (MAE, VIT) or "canvas" not in size or "depth" not in size:
        raise CheckpointError(
            f"{checkpoint.source} is no MAE: expected a state dict with {MAE.positions[checkpoint.family]} and blocks; "
            "to go on from a checkpoint of the same model leave out 'mae:'"
        )
    # No array says how many heads there are, and none depends on it.
    model = Mae(**{name: size[name] for name in ("width", "depth", "patch", "canvas")}, heads=1)
    encoder = shapes_of(model)["params"]["encoder"]
    expected = {"params": {"encoder": {name: encoder[name] for name in wanted}}}
    found, _ = table.part_of(
        checkpoint.arrays, expected, family=checkpoint.family, source=checkpoint.source
    )
    arrays = jax.tree.map(lambda x: np.array(x, np.float32, order="C"), found)
    positions = np.asarray(checkpoint.arrays[table.positions[checkpoint.family]], np.float32)[0]
    return TakenEncoder(arrays["params"]["encoder"], model.grid, model.patch, positions)


def _windowed(
    path: str, heads: int, target: Mapping[str, Any], model: str, fresh: str
) -> dict[str, Any]:
    taken = read_encoder(path, _BLOCKS, heads=heads, model=model)
    encoder = windowed_encoder(taken, target, model)
    grid, patch = target["pos_embed"].shape[1:3], target["patch_embed"]["kernel"].shape[0]
    _log("image encoder", path, taken, grid, patch, fresh)
    return encoder


def _log(
    what: str, path: str, taken: TakenEncoder, grid: tuple[int, int], patch: int, fresh: str
) -> None:
    resized = (
        [f"positions from {taken.grid} to {tuple(grid)} patches"]
        if taken.grid != tuple(grid)
        else []
    )
    resized += [f"patches from {taken.patch} to {patch} pixels"] if taken.patch != patch else []
    done = "bicubically resized: " + ", ".join(resized) if resized else "nothing resized"
    logger.info("%s from the MAE in %s; %s; %s", what, path, done, fresh)


_CASCADE = tuple(numbered("box_head", len(STAGES)))
# As many outputs as there are classes, or keypoints; a cascade's boxes are the same for all classes.
PREDICTORS = ("box_head/scores", "box_head/deltas", *(f"{head}/scores" for head in _CASCADE))
PREDICTORS += ("mask_head/logits", "keypoint_head/upscale")
OPTIONAL_HEADS = ("box_head", *_CASCADE, "mask_head", "keypoint_head")


def detector_of_other_classes(path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Backbone, pyramid, proposals and heads of a detector, without the heads' last layers.

    A head that only one of the two has is left out too: for masks, for keypoints, or the box heads of a cascade.

    Args:
      path: a run's folder or a file of ours, torchvision's or detectron2's.
      expected: {"params", "constants"} of the model, of anything with a shape.

    Returns:
      {"params", "constants"} without what is to be drawn.

    Raises:
      CheckpointError: no detector, or one that differs in more than its classes.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.table not in (None, TORCHVISION_DETECTORS, DETECTRON2_DETECTORS) or not _has(
        checkpoint, "rpn"
    ):
        raise CheckpointError(
            f"{checkpoint.source} holds no detector; expected one of ours or a Mask R-CNN's file"
        )
    left_out = (*PREDICTORS, *(head for head in OPTIONAL_HEADS if not _has(checkpoint, head)))
    kept = lambda arrays: {
        key: array for key, array in flatten(arrays).items() if not _is_of(key, left_out)
    }
    wanted = kept(expected)
    if checkpoint.table is None:
        unknown = tuple(
            head for head in OPTIONAL_HEADS if not any(_is_of(key, (head,)) for key in wanted)
        )
        have = {
            key: x
            for key, x in kept(placed(checkpoint.arrays, expected)).items()
            if not _is_of(key, unknown)
        }
        hint = "; it may differ in its classes alone"
        check_parameters(wanted, have, source=checkpoint.source, kind="arrays", hint=hint)
    else:
        source, family = checkpoint.source, checkpoint.family
        found, _ = checkpoint.table.part_of(
            checkpoint.arrays, unflatten(wanted), family=family, source=source
        )
        have = flatten(found)
    fresh = sorted(
        {"/".join(key.split("/")[1:3]) for key in flatten(expected) if key not in wanted}
    )
    logger.info("the detector in %s, but for its classes; fresh are %s", path, ", ".join(fresh))
    return jax.tree.map(lambda x: np.array(x, np.float32, order="C"), unflatten(have))


def _is_of(path: str, modules: tuple[str, ...]) -> bool:
    """Whether an array "params/module/..." lies in one of the modules."""
    inside = path.partition("/")[2]
    return any(inside.startswith(f"{module}/") for module in modules)


def _has(checkpoint: Checkpoint, module: str) -> bool:
    if checkpoint.table is None:
        return any(module in checkpoint.arrays.get(kind, {}) for kind in ("params", "constants"))
    layer = {"rpn": "logits", "mask_head": "upscale", "keypoint_head": "upscale"}.get(
        module, "scores"
    )
    try:
        keys, _ = checkpoint.table.published_names(
            f"params/{module}/{layer}/kernel", checkpoint.family
        )
    except CheckpointError:  # there is no such head under the names of this library
        return False
    return keys[0] in checkpoint.table.respelt(checkpoint.arrays, checkpoint.family)
