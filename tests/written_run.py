"""A run's folder as training leaves it, written without training."""

import functools
import pathlib

import jax
import ml_collections
import numpy as np
import optax

from segjax.models.sam.build import build_sam, init_sam
from segjax.tasks.promptable_config import promptable_config
from segjax.training.checkpoints import Checkpoints
from segjax.training.resume import plain
from segjax.training.state import create_state


@functools.cache
def debug_variables():
    """The smallest SAM's fresh variables, as NumPy arrays."""
    model = build_sam("sam_debug")
    return jax.device_get(jax.jit(lambda key: init_sam(model, key))(jax.random.key(0)))


def debug_config() -> ml_collections.ConfigDict:
    config = promptable_config()
    config.model = ml_collections.ConfigDict({"name": "sam_debug", "remat": "full"})
    config.data.percentiles = (1.0, 99.0)
    return config


def write_run(workdir: pathlib.Path, *, ema: bool = False, steps: tuple[int, ...] = (2,)) -> pathlib.Path:
    """Checkpoints of the smallest SAM; its parameters at step s are the fresh ones + s, the moving average + 10 s."""
    variables = debug_variables()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for step in steps:
            moved = {"params": jax.tree.map(lambda x: x + np.float32(step), variables["params"])}
            state = create_state(moved | {"constants": variables["constants"]}, optax.sgd(0.1), jax.random.key(0))
            average = jax.tree.map(lambda x: x + np.float32(10 * step), variables["params"]) if ema else None
            state = state.replace(step=np.int32(step), ema=average)
            checkpoints.save(jax.device_put(state), {"config": plain(debug_config())})
            checkpoints.wait()
    return workdir
