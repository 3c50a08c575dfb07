"""Random weights drawn from parameter names, so that a reference and a test have the same ones."""

import functools
import math
import zlib

import jax
import numpy as np


def drawn_variables(model, init) -> dict:
    """Draws the variables of a model, every array from its own path.

    Every parameter affects the result: biases, norms and position tables are not at their neutral
    values. Activations keep their size through the layers.

    Args:
      model: The module.
      init: `init(model, key)`, which is only traced, for names and shapes.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _draw(get_path(path), leaf.shape), _compute_shapes(model, init)
    )


@functools.lru_cache(maxsize=32)
def _compute_shapes(model, init):
    """Computes the shapes once per model. Tracing one takes up to a second."""
    return jax.eval_shape(lambda key: init(model, key), jax.random.key(0))


def get_path(path) -> str:
    """Returns the path of a leaf as text: params/image_encoder/..."""
    return "/".join(str(part.key) for part in path)


def _draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape)
    kind = path.split("/")[-1]
    if kind == "kernel":
        fan_in = shape[0] if "upscale" in path else math.prod(shape[:-1])
        # Boxes move, but not all to the edges. Pyramid levels are sums and stay small.
        values *= fan_in**-0.5 * (0.2 if "/deltas/" in path else 0.8 if "/pyramid/" in path else 1)
    elif kind == "scale":
        values = 1 + 0.2 * values
    elif kind == "bias":
        values *= 0.2
    elif kind == "variance":
        values = 0.5 + values**2
    elif kind.startswith("rel_pos"):
        values *= 0.3
    elif kind == "mean":  # batch norm
        values *= 0.1
    elif kind == "variance":
        # Half of the kernel makes up for the ReLU. A block adds little, because many blocks add up.
        values = {"conv_3": 4, "shortcut": 2}.get(path.split("/")[-3], 0.5) * (
            1 + 0.2 * values
        ) ** 2
    return values.astype(np.float32)
