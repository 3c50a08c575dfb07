"""Task small enough to check by hand: a two-layer regression on random NumPy batches."""

import jax
import jax.numpy as jnp
import numpy as np

from segjax.training.defaults import base_config, fill_defaults
from segjax.training.task import Task

INPUTS, HIDDEN = 16, 32


def examples(start: int, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns rows `start` .. `start + count` of an endless stream. A row depends on its index."""
    rows = [np.random.default_rng([seed, i]) for i in range(start, start + count)]
    x = np.stack([r.standard_normal(INPUTS).astype(np.float32) for r in rows])
    weight = np.array([r.integers(0, 4) for r in rows], np.float32)
    return {
        "x": x,
        "y": np.sin(x.sum(-1)),
        "weight": weight,
        "index": np.arange(start, start + count),
    }


class ToyTask(Task):
    """Toy regression that counts its traces and evaluations.

    Attributes:
      poison: Global step whose batch holds a NaN, or None.
      noise: Scale of a random perturbation of each step.
      hidden: Width of the hidden layer.
      on_batch: Function of the number of each batch, called before it is returned, or None.
      scores: Scores of the coming evaluations.
    """

    def __init__(
        self, poison: int | None = None, noise: float = 0.1, hidden: int = HIDDEN, on_batch=None
    ) -> None:
        self.poison, self.noise, self.hidden, self.on_batch = poison, noise, hidden, on_batch
        self.traces = 0
        self.evaluations = 0
        self.scores = iter(())

    def complete_config(self, settings):
        return fill_defaults(settings, base_config())

    def init(self, key):
        a, b = jax.random.split(key)
        return {
            "params": {
                "first": {
                    "kernel": 0.3 * jax.random.normal(a, (INPUTS, self.hidden)),
                    "bias": jnp.zeros(self.hidden),
                },
                "second": {
                    "kernel": 0.3 * jax.random.normal(b, (self.hidden, 1)),
                    "bias": jnp.zeros(1),
                },
            },
            "constants": {"offset": jnp.full((1,), 0.5)},
        }

    def loss(self, variables, batch, key, train):
        self.traces += 1
        params = variables["params"]
        hidden = jnp.tanh(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"])
        out = (hidden @ params["second"]["kernel"] + params["second"]["bias"])[:, 0] + variables[
            "constants"
        ]["offset"]
        out = out + self.noise * jax.random.normal(key, ())
        error = jnp.square(out - batch["y"])
        weight = batch["weight"]
        return (
            (error * weight).sum(),
            weight.sum(),
            {"absolute": (jnp.abs(out - batch["y"]) * weight).sum()},
        )

    def flops(self):
        return 3 * 2 * (INPUTS * self.hidden + self.hidden), "float32"

    def batches(
        self, split, *, batch_size, start, process_index, process_count, seed, workdir=None
    ):
        position = start
        while True:
            batch = examples(position, batch_size, seed)
            if self.poison is not None and position == self.poison * batch_size:
                batch["x"][1, 0] = np.nan
            if self.on_batch is not None:
                self.on_batch(position // batch_size)
            local = batch_size // process_count
            yield {
                k: v[process_index * local : (process_index + 1) * local] for k, v in batch.items()
            }
            position += batch_size

    def evaluate(self, variables, *, mesh):
        self.evaluations += 1
        image = np.full((4, 6, 3), 128, np.uint8)
        return {"score": next(self.scores, 0.0)}, {"sample": image}


def toy_config(**changes):
    """Returns a config with 6 steps of 16 rows. Keywords are dotted names with __ for the dot."""
    config = base_config()
    config.total_steps, config.batch_size, config.log_every = 6, 16, 1
    config.checkpoint.every = 2
    config.optimizer.peak_lr, config.optimizer.warmup_steps = 1e-2, 1
    config.mesh.floor = 64
    config.mesh.unsharded_tolerance = 0.5
    for name, value in changes.items():
        *parents, last = name.split("__")
        where = config
        for parent in parents:
            where = where[parent]
        where[last] = value
    return config
