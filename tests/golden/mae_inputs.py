"""What the MAE goldens and the parity tests feed the model."""

import numpy as np

from golden.sam_inputs import pictures  # the same chequers


def inputs(model, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 images [count, S, S, 3], noise float32 [count, L] without ties)."""
    rng = np.random.default_rng(5)
    length = model.grid[0] * model.grid[1]
    noise = np.stack([rng.permutation(length) for _ in range(count)]) / length
    size = 8 * -(-model.canvas // 8)  # `pictures` are multiples of 8
    return pictures(size, count)[:, : model.canvas, : model.canvas], noise.astype(np.float32)
