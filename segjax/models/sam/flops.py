"""Multiply-adds of SAM, counted from its sizes. Model FLOPs utilization is measured against them.

The conventions are those of `segjax.models.flops`. Padded window tokens count too.
"""

from segjax.models.flops import count_windowed_multiply_adds
from segjax.models.sam.mask_decoder import MASKS
from segjax.models.sam.sam import Sam


def count_encoder_multiply_adds(model: Sam) -> int:
    """Counts the multiply-adds of `encode_image` for one image that fills the canvas.

    SAM ViT-B takes 486e9.
    """
    side, width = model.canvas // model.patch, model.width
    cells = side**2
    total = cells * width * 3 * model.patch**2
    # Blocks of the ViT
    blocks = (width, model.depth, (side, side), model.window, model.global_blocks)
    total += count_windowed_multiply_adds(*blocks, rel_pos=model.rel_pos)
    # Neck: a 1 x 1 and a 3 x 3 convolution
    neck = model.prompt_width
    return total + cells * (width * neck + 9 * neck**2)


def count_decoder_multiply_adds(model: Sam, tokens: int) -> int:
    """Counts the multiply-adds of `decode` for one prompt.

    SAM takes 1.81e9 for a click.

    Args:
      model: The SAM.
      tokens: Tokens of the prompt. A click has two: itself and the final "not a point".
    """
    width, mlp = model.prompt_width, model.decoder_mlp
    inner, cells, tokens = width // 2, (model.canvas // model.patch) ** 2, tokens + MASKS + 1
    attention = lambda queries, keys, inner: (
        2 * (queries + keys) * width * inner + 2 * queries * keys * inner
    )
    # One block of the two-way transformer
    block = (
        attention(tokens, tokens, width)
        + 2 * attention(tokens, cells, inner)
        + 2 * tokens * width * mlp
    )
    # Upscaling, hypernetworks with their products, and the IoU prediction head
    upscaling = cells * width * width + 4 * cells * (width // 4) * (width // 2)
    hypernetworks = MASKS * (2 * width**2 + width * width // 8 + 16 * cells * width // 8)
    iou = 2 * width**2 + width * MASKS
    return (
        model.decoder_depth * block
        + attention(tokens, cells, inner)
        + upscaling
        + hypernetworks
        + iou
    )
