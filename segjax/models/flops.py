"""Multiply-adds of the ViT and of what is made of it alone: what a machine's utilisation is measured against.

Two operations each. Norms and activations do not count. What an implementation saves or adds by computing otherwise, or
by computing again in the backward pass, changes nothing here.
"""

from collections.abc import Sequence

from segjax.models.classifier import Classifier
from segjax.models.mae import Mae

TRAINING = 3  # passes: forward, and the gradients of inputs and of weights, which cost as much each


def block_multiply_adds(
    width: int, tokens: int, *, windows: int = 1, outside: int | None = None
) -> int:
    """Of one block of a ViT, whose MLP is four times as wide, for one picture.

    Args:
      tokens: that attend to each other, in each of `windows` windows.
      outside: tokens that go through the MLP, which padding of windows does not; None: all of them.
    """
    attending = windows * tokens
    outside = attending if outside is None else outside
    return attending * 4 * width**2 + outside * 8 * width**2 + 2 * windows * tokens**2 * width


def windowed_multiply_adds(
    width: int,
    depth: int,
    grid: tuple[int, int],
    window: int,
    global_blocks: Sequence[int],
    *,
    rel_pos: bool,
) -> int:
    """Of all blocks of a ViT that attends in windows, and globally in some, on a grid of (h, w) patches.

    Args:
      window: side in patches; 0 attends globally everywhere. rel_pos: positions are added to the attention, as SAM's.
    """
    cells, total = grid[0] * grid[1], 0
    for block in range(depth):
        down, across = (window, window) if window and block not in global_blocks else grid
        windows = -(-grid[0] // down) * -(-grid[1] // across)
        total += block_multiply_adds(width, down * across, windows=windows, outside=cells)
        if rel_pos:  # each query with the rows and the columns of its window
            total += windows * down * across * (down + across) * width
    return total


def mae_multiply_adds(model: Mae) -> tuple[int, int]:
    """(encoder, decoder) of one masked picture (ViT-B/16 at 224: 4.3e9 and 5.3e9)."""
    patches = model.grid[0] * model.grid[1]
    seen = int(patches * (1 - model.mask_ratio))
    pixels = 3 * model.patch**2
    encoder = seen * pixels * model.width + model.depth * block_multiply_adds(model.width, 1 + seen)
    width = model.decoder_width
    decoder = (1 + seen) * model.width * width + model.decoder_depth * block_multiply_adds(
        width, 1 + patches
    )
    return encoder, decoder + (1 + patches) * width * pixels


def classifier_multiply_adds(model: Classifier) -> tuple[int, int]:
    """(encoder, head) of one picture (ViT-B/16 at 224: 17.5e9 and 0.8e6)."""
    patches = model.grid[0] * model.grid[1]
    encoder = patches * 3 * model.patch**2 * model.width + model.depth * block_multiply_adds(
        model.width, 1 + patches
    )
    return encoder, model.width * model.classes
