"""Multiply-adds of a SAM, counted from its sizes as published: what a machine's utilisation is measured against.

As `segjax.models.flops` counts; padded window tokens count too.
"""

from segjax.models.flops import count_windowed_multiply_adds
from segjax.models.sam.mask_decoder import MASKS
from segjax.models.sam.sam import Sam


def encoder_multiply_adds(model: Sam) -> int:
    """Of `encode_image` for one picture that fills the canvas (SAM ViT-B: 486e9)."""
    side, width = model.canvas // model.patch, model.width
    cells = side**2
    total = cells * width * 3 * model.patch**2
    blocks = (width, model.depth, (side, side), model.window, model.global_blocks)
    total += count_windowed_multiply_adds(*blocks, rel_pos=model.rel_pos)
    neck = model.prompt_width
    return total + cells * (width * neck + 9 * neck**2)


def decoder_multiply_adds(model: Sam, tokens: int) -> int:
    """Of `decode` for one prompt (SAM: 1.81e9 for a click).

    Args:
      tokens: of the prompt; a click has two, itself and the closing "not a point".
    """
    width, mlp = model.prompt_width, model.decoder_mlp
    inner, cells, tokens = width // 2, (model.canvas // model.patch) ** 2, tokens + MASKS + 1
    attention = lambda queries, keys, inner: (
        2 * (queries + keys) * width * inner + 2 * queries * keys * inner
    )
    block = (
        attention(tokens, tokens, width)
        + 2 * attention(tokens, cells, inner)
        + 2 * tokens * width * mlp
    )
    upscaling = cells * width * width + 4 * cells * (width // 4) * (width // 2)
    filters = MASKS * (2 * width**2 + width * width // 8 + 16 * cells * width // 8)
    iou = 2 * width**2 + width * MASKS
    return model.decoder_depth * block + attention(tokens, cells, inner) + upscaling + filters + iou
