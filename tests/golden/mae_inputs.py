"""Inputs of the MAE goldens and of the parity tests."""

import numpy as np

from golden.sam_inputs import make_images  # the same checkers


def inputs(model, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 images [count, S, S, 3] and noise float32 [count, L] without ties."""
    rng = np.random.default_rng(5)
    length = model.grid[0] * model.grid[1]
    noise = np.stack([rng.permutation(length) for _ in range(count)]) / length
    size = 8 * -(-model.canvas // 8)  # `make_images` has sizes that are multiples of 8
    return make_images(size, count)[:, : model.canvas, : model.canvas], noise.astype(np.float32)
