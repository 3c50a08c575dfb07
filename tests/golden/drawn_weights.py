"""Weights that depend on nothing but the names of the parameters, so that a reference and a test make the same ones."""

import functools
import math
import zlib

import jax
import numpy as np


def drawn_variables(model, init) -> dict:
    """Variables of `model`, every array drawn from its own path; `init(model, key)` only tells names and shapes.

    Every parameter matters to the result (biases, norms and position tables are not at their neutral values), and
    activations keep their size through the layers.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _draw(path_of(path), leaf.shape), _shapes(model, init)
    )


@functools.lru_cache(maxsize=32)
def _shapes(model, init):
    """Many tests draw for the same few models, and tracing one takes up to a second."""
    return jax.eval_shape(lambda key: init(model, key), jax.random.key(0))


def path_of(path) -> str:
    """The path of a leaf as text: params/image_encoder/..."""
    return "/".join(str(part.key) for part in path)


def _draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape)
    kind = path.split("/")[-1]
    if kind == "kernel":
        fan_in = shape[0] if "upscale" in path else math.prod(shape[:-1])
        # Boxes move, but not all to the edges; a pyramid's levels, sums of several, are no larger than other maps.
        values *= fan_in**-0.5 * (0.2 if "/deltas/" in path else 0.8 if "/pyramid/" in path else 1)
    elif kind == "scale":
        values = 1 + 0.2 * values
    elif kind == "bias":
        values *= 0.2
    elif kind == "variance":
        values = 0.5 + values**2
    elif kind.startswith("rel_pos"):
        values *= 0.3
    elif kind == "mean":  # of a batch norm
        values *= 0.1
    elif kind == "variance":
        # Half of the kernel's makes up for what the ReLU takes; what a block adds is little, or many blocks add much.
        values = {"conv_3": 4, "shortcut": 2}.get(path.split("/")[-3], 0.5) * (
            1 + 0.2 * values
        ) ** 2
    return values.astype(np.float32)
