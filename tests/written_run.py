"""A run's folder as training leaves it, written without training."""

import functools
import pathlib
from collections.abc import Mapping

import jax
import ml_collections
import numpy as np
import optax

from segjax.models.build import variable_shapes
from segjax.models.sam.build import build_sam
from segjax.tasks.promptable.config import promptable_config
from segjax.training.checkpoints import Checkpoints
from segjax.training.state import init_state
from segjax.training.workdir import to_plain_dict


@functools.cache
def debug_variables():
    """Variables of the smallest SAM as NumPy arrays, drawn on the host: compiling its
    initialisation takes longer.
    """
    model = build_sam("sam_debug")
    shapes = variable_shapes(model)
    rng = np.random.default_rng(0)
    fan_in = lambda shape: np.prod(shape[:-1]) if len(shape) > 1 else 4
    return jax.tree.map(
        lambda s: (rng.normal(size=s.shape) / np.sqrt(fan_in(s.shape))).astype(np.float32), shapes
    )


def moved_by(amount: float):
    """The parameters of `debug_variables` with a number added to each."""
    return jax.tree.map(lambda x: x + np.float32(amount), debug_variables()["params"])


def debug_config(best: str = "") -> ml_collections.ConfigDict:
    config = promptable_config()
    config.model = ml_collections.ConfigDict({"name": "sam_debug", "drop_path": 0.25})
    config.data.percentiles = (1.0, 99.0)
    config.checkpoint.best = best
    return config


def write_run(
    workdir: pathlib.Path,
    *,
    ema: bool = False,
    steps: tuple[int, ...] = (2,),
    best: str = "",
    numbers: Mapping[int, Mapping[str, float]] | None = None,
) -> pathlib.Path:
    """Checkpoints of the smallest SAM; its parameters at step s are the fresh ones + s, the moving
    average + 10 s.

    best: config.checkpoint.best, for the choice among `numbers`, which the evaluation before each
      save has given.
    """
    with Checkpoints(workdir / "checkpoints", best=best) as checkpoints:
        for step in steps:
            variables = {"params": moved_by(step), "constants": debug_variables()["constants"]}
            state = init_state(variables, optax.sgd(0.1), jax.random.key(0))
            state = state.replace(step=np.int32(step), ema=moved_by(10 * step) if ema else None)
            meta = {"config": to_plain_dict(debug_config(best))}
            checkpoints.save(jax.device_put(state), meta, (numbers or {}).get(step))
            checkpoints.wait()
    return workdir
