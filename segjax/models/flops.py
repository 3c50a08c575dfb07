"""Counts the multiply-adds of MAE and of the classifier, and of a ViT's blocks.

A multiply-add is two FLOPs. Norms and activations do not count. The counts are those of the model,
not of an implementation that saves some or computes some again in the backward pass. Model FLOPs
utilization (MFU) is measured with them.
"""

from collections.abc import Sequence

from segjax.models.classifier import Classifier
from segjax.models.mae import Mae

# Passes in training: forward, and the gradients of inputs and of weights, which cost as much each.
TRAINING = 3


def count_block_multiply_adds(
    width: int, tokens: int, *, windows: int = 1, mlp_tokens: int | None = None
) -> int:
    """Counts the multiply-adds of one transformer block for one image.

    The MLP is four times as wide as a token.

    Args:
      width: channels of a token.
      tokens: tokens that attend to each other, in each window.
      windows: number of windows.
      mlp_tokens: tokens of the MLP, which the padding of windows does not enter. None: all.
    """
    attending = windows * tokens
    mlp_tokens = attending if mlp_tokens is None else mlp_tokens
    projections = attending * 4 * width**2
    mlp = mlp_tokens * 8 * width**2
    scores = 2 * windows * tokens**2 * width
    return projections + mlp + scores


def count_windowed_multiply_adds(
    width: int,
    depth: int,
    grid: tuple[int, int],
    window: int,
    global_blocks: Sequence[int],
    *,
    rel_pos: bool,
) -> int:
    """Counts the multiply-adds of all blocks of a ViT with windowed attention for one image.

    Args:
      width: channels of a token.
      depth: number of blocks.
      grid: (h, w), number of patches.
      window: side of a window in patches. 0: global attention in all blocks.
      global_blocks: indices of the blocks with global attention.
      rel_pos: decomposed relative positions are added to the scores.
    """
    cells, total = grid[0] * grid[1], 0
    for block in range(depth):
        rows, columns = (window, window) if window and block not in global_blocks else grid
        tokens = rows * columns
        windows = -(-grid[0] // rows) * -(-grid[1] // columns)
        total += count_block_multiply_adds(width, tokens, windows=windows, mlp_tokens=cells)
        if rel_pos:  # each query with all rows and all columns of its window
            total += windows * tokens * (rows + columns) * width
    return total


def count_mae_multiply_adds(model: Mae) -> tuple[int, int]:
    """Counts the multiply-adds of one masked image.

    Returns:
      encoder: 4.3e9 for ViT-B/16 at 224 pixels.
      decoder: 5.3e9 for it.
    """
    # Encoder, of visible patches and the class token
    patches = model.grid[0] * model.grid[1]
    visible = int(patches * (1 - model.mask_ratio))
    pixels = 3 * model.patch**2
    embedding = visible * pixels * model.width
    encoder = embedding + model.depth * count_block_multiply_adds(model.width, 1 + visible)

    # Decoder, of all patches and the class token
    width = model.decoder_width
    decoder = (1 + visible) * model.width * width
    decoder += model.decoder_depth * count_block_multiply_adds(width, 1 + patches)
    decoder += (1 + patches) * width * pixels
    return encoder, decoder


def count_classifier_multiply_adds(model: Classifier) -> tuple[int, int]:
    """Counts the multiply-adds of one image.

    Returns:
      encoder: 17.5e9 for ViT-B/16 at 224 pixels.
      head: 0.8e6 for it.
    """
    patches = model.grid[0] * model.grid[1]
    embedding = patches * 3 * model.patch**2 * model.width
    encoder = embedding + model.depth * count_block_multiply_adds(model.width, 1 + patches)
    return encoder, model.width * model.classes
