"""What a run can start from besides a checkpoint of its own model: `config.init_from = "mae:PATH"`."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from segjax.models.build import shapes_of
from segjax.models.mae import Mae, build_mae
from segjax.models.sam.from_mae import encoder_from_mae
from segjax.models.sam.sam import Sam
from segjax.weights.checkpoint import Checkpoint, read_checkpoint
from segjax.weights.mae_table import MAE
from segjax.weights.tree import CheckpointError

logger = logging.getLogger(__name__)


def sam_from_mae(path: str, sam: Sam, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a SAM's image encoder from a MAE: a run of ours, or any file that `read_checkpoint` reads.

    Official files of the encoder alone will do, and of a fine-tuned model, whose positions may have been trained: what
    SAM has no place for is left alone. Plain ViTs with the same names of arrays (timm's, DINO's) are taken alike.

    Args:
      path: of the checkpoint. sam: the model. expected: its {"params", "constants"}, of anything with a shape.

    Returns:
      {"params": {"image_encoder": ...}}, without the neck.

    Raises:
      CheckpointError: there is no MAE, or an array of its encoder is missing or misshapen.
      ValueError: its encoder is of another width, depth or (as far as it says) number of heads than SAM's.
    """
    target = expected["params"]["image_encoder"]
    checkpoint = read_checkpoint(path)
    read = _ours(checkpoint, sam.heads) if checkpoint.table is None else _published(checkpoint)
    encoder, grid, patch, positions = read
    taken = encoder_from_mae(encoder, grid, target, positions)
    cells, wanted = target["pos_embed"].shape[1:3], target["patch_embed"]["kernel"].shape[0]
    resized = [f"positions from {grid} to {tuple(cells)} patches"] if grid != tuple(cells) else []
    resized += [f"patches from {patch} to {wanted} pixels"] if patch != wanted else []
    logger.info(
        "image encoder from the MAE in %s; %s; neck, prompt encoder and mask decoder are fresh",
        path,
        "bicubically resized: " + ", ".join(resized) if resized else "nothing resized",
    )
    return {"params": {"image_encoder": taken}}


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
        raise ValueError(f"{checkpoint.source} attends with {model.heads} heads, the SAM with {heads}; make them agree")
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
