"""Starts a model from a masked autoencoder: `config.init_from = "mae:PATH"`.

A detector has more ways to start, see `segjax.tasks.detection.init_from`.
"""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from segjax.inference.loading import read_model
from segjax.models.build import build_model, find_family, variable_shapes
from segjax.models.classifier import Classifier
from segjax.models.from_mae import (
    PretrainedEncoder,
    build_classifier_encoder,
    build_windowed_encoder,
)
from segjax.models.mae import Mae
from segjax.models.sam.sam import Sam
from segjax.ops.positions import make_position_table
from segjax.weights.checkpoint import Checkpoint, read_checkpoint
from segjax.weights.tables.mae import MAE
from segjax.weights.tables.vit import VIT
from segjax.weights.tree import CheckpointError, check_variables

logger = logging.getLogger(__name__)

_BLOCKS = ("patch_embed", "trunk")


def load_sam_encoder(path: str, sam: Sam, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Loads a SAM's image encoder from a MAE.

    Args:
      path: checkpoint of the MAE, see `read_encoder`.
      sam: model to start.
      expected: its {"params", "constants"}, of anything with a shape.

    Returns:
      {"params": {"image_encoder": ...}}, without the neck.

    Raises:
      CheckpointError: not a MAE, or an array of its encoder is missing or of another shape.
      ValueError: an encoder of another width, depth or (if it is known) number of heads.
    """
    encoder = load_windowed_encoder(
        path,
        heads=sam.heads,
        expected=expected["params"]["image_encoder"],
        model="SAM",
        fresh="neck, prompt encoder and mask decoder are fresh",
    )
    return {"params": {"image_encoder": encoder}}


def load_sam_without_text(path: str, sam: Sam) -> dict[str, Any]:
    """Loads all of a SAM but its text prompts, which start from random parameters.

    Args:
      path: checkpoint of a SAM.
      sam: model to start. It may have another canvas: positions are resized.

    Raises:
      CheckpointError: not a SAM, or one of another architecture.
    """
    _, variables, *_ = read_model(path, family="sam", canvas=sam.canvas)
    expected = variable_shapes(sam.clone(text_width=0))
    check_variables(expected, variables, source=path)
    logger.info("all of %s but text prompts, which start from random parameters", path)
    return variables


def load_windowed_encoder(
    path: str, *, heads: int, expected: Mapping[str, Any], model: str, fresh: str
) -> dict[str, Any]:
    """Loads SAM's image encoder or ViTDet's backbone from a MAE, and logs how.

    Args:
      path: checkpoint of the MAE.
      heads: attention heads of the new model.
      expected: arrays of its encoder, of anything with a shape.
      model: name of the new model for messages.
      fresh: sentence for the log about the parts that are drawn.
    """
    encoder = read_encoder(path, _BLOCKS, heads=heads, model=model)
    arrays = build_windowed_encoder(encoder, expected, model)
    grid, patch = expected["pos_embed"].shape[1:3], expected["patch_embed"]["kernel"].shape[0]
    _log("image encoder", path, encoder, grid, patch, fresh)
    return arrays


def load_classifier_encoder(
    path: str, model: Classifier, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """Loads a classifier's encoder from a MAE.

    Args:
      path: checkpoint of the MAE, see `read_encoder`.
      model: classifier to start.
      expected: its {"params", "constants"}, of anything with a shape.

    Returns:
      {"params": {"encoder": ...}}, or "constants" for a frozen encoder.

    Raises:
      CheckpointError: as `load_sam_encoder`.
      ValueError: as `load_sam_encoder`.
    """
    collection = "constants" if model.frozen else "params"
    target = expected[collection]["encoder"]
    last_norm = ["norm"] if "norm" in target else []
    modules = (*_BLOCKS, "cls_token", *last_norm)
    encoder = read_encoder(path, modules, heads=model.heads, model="classifier")
    arrays = build_classifier_encoder(encoder, target)
    fresh = "the head is fresh" if last_norm else "the norm behind the mean and the head are fresh"
    name = "frozen encoder" if model.frozen else "encoder"
    _log(name, path, encoder, model.grid, model.patch, fresh)
    return {collection: {"encoder": arrays}}


def read_encoder(
    path: str, modules: tuple[str, ...], *, heads: int, model: str
) -> PretrainedEncoder:
    """Reads the encoder of a MAE, or of a plain ViT of the same build.

    It may come from a run of ours or from any file that `read_checkpoint` reads. Official files of
    the encoder alone are enough. Plain ViTs are classifiers of ours, official files of fine-tuned
    models (whose positions may have been trained), timm's and DINO's.

    Args:
      path: checkpoint.
      modules: modules of the encoder to read, such as "trunk".
      heads: attention heads of the new model.
      model: name of the new model for messages.

    Raises:
      CheckpointError: as `load_sam_encoder`.
      ValueError: as `load_sam_encoder`.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.table is None:
        return _read_own_encoder(checkpoint, modules, heads, model)
    return _read_published_encoder(checkpoint, modules)


def _read_own_encoder(
    checkpoint: Checkpoint, modules: tuple[str, ...], heads: int, model: str
) -> PretrainedEncoder:
    """Reads the encoder of a run or file of ours, after comparing it with the model it states."""
    options = dict(checkpoint.saved.get("model", {}))
    family = find_family(options["name"]) if "name" in options else None
    if family is None or family.encoder is None:
        raise CheckpointError(
            f"{checkpoint.source} holds {options.get('name', 'a model that it does not name')}, "
            "expected a MAE; to go on from a checkpoint of the same model leave out 'mae:'"
        )
    # No array tells the number of heads, so it is compared before reading
    source = build_model(**options)
    if source.heads != heads:
        raise ValueError(
            f"{checkpoint.source} attends with {source.heads} heads, the {model} with {heads}; "
            "make them agree"
        )
    encoder = family.encoder(source, checkpoint.variables(variable_shapes(source)))
    if missing := [name for name in modules if name not in encoder]:
        raise CheckpointError(
            f"{checkpoint.source} pools the mean of its patches and has no {', '.join(missing)}; "
            "expected a MAE, or a classifier with pool='token'. Or set config.model.pool='mean' "
            "here too"
        )
    positions = encoder.get("pos_embed", make_position_table(source.grid, source.width))
    arrays = {name: encoder[name] for name in modules}
    return PretrainedEncoder(arrays, source.grid, source.patch, positions)


def _read_published_encoder(checkpoint: Checkpoint, modules: tuple[str, ...]) -> PretrainedEncoder:
    """Reads the encoder of a state dict with another library's names."""
    size, table, format = checkpoint.size, checkpoint.table, checkpoint.format
    if table not in (MAE, VIT) or "canvas" not in size or "depth" not in size:
        raise CheckpointError(
            f"{checkpoint.source} is no MAE: expected a state dict with "
            f"{MAE.position_keys[format]} and blocks; to go on from a checkpoint of the same model "
            "leave out 'mae:'"
        )
    # No array depends on the number of heads, so any number gives the shapes.
    source = Mae(**{name: size[name] for name in ("width", "depth", "patch", "canvas")}, heads=1)
    encoder = variable_shapes(source)["params"]["encoder"]
    expected = {"params": {"encoder": {name: encoder[name] for name in modules}}}
    loaded, _ = table.load_part(
        checkpoint.arrays, expected, format=format, source=checkpoint.source
    )
    # Positions are read too, because fine-tuning may have trained them
    arrays = copy_as_float32(loaded)["params"]["encoder"]
    positions = np.asarray(checkpoint.arrays[table.position_keys[format]], np.float32)[0]
    return PretrainedEncoder(arrays, source.grid, source.patch, positions)


def copy_as_float32(arrays: Any) -> Any:
    """Returns a tree of float32 copies, which do not change with the file they come from."""
    return jax.tree.map(lambda x: np.array(x, np.float32, order="C"), arrays)


def _log(
    part: str,
    path: str,
    encoder: PretrainedEncoder,
    grid: tuple[int, int],
    patch: int,
    fresh: str,
) -> None:
    resized = []
    if encoder.grid != tuple(grid):
        resized.append(f"positions from {encoder.grid} to {tuple(grid)} patches")
    if encoder.patch != patch:
        resized.append(f"patches from {encoder.patch} to {patch} pixels")
    done = "bicubically resized: " + ", ".join(resized) if resized else "nothing resized"
    logger.info("%s from the MAE in %s; %s; %s", part, path, done, fresh)
