"""Counts the multiply-adds of CLIP's towers."""

from segjax.models.clip.clip import ClipModel
from segjax.models.flops import count_block_multiply_adds


def count_clip_multiply_adds(model: ClipModel) -> tuple[int, int]:
    """Counts the multiply-adds of one image and of one text.

    A causal mask saves nothing: all scores are computed.

    Returns:
      image: 4.4e9 for ViT-B/32.
      text: 2.98e9 for it.
    """
    patches = model.grid[0] * model.grid[1]
    image = patches * 3 * model.patch**2 * model.width + model.width * model.embedding
    image += model.depth * count_block_multiply_adds(model.width, 1 + patches)
    text = model.text_width * model.embedding
    text += model.text_depth * count_block_multiply_adds(model.text_width, model.context)
    return image, text
