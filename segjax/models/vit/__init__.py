"""The one vision transformer (ViT) of all models: blocks, trunk, patch embedding, encoders."""

from segjax.models.vit.block import Block
from segjax.models.vit.patch_embed import PatchEmbed, check_canvas, encode_patches
from segjax.models.vit.token_encoder import TokenEncoder
from segjax.models.vit.trunk import REMAT_POLICIES, ViT

__all__ = [
    "REMAT_POLICIES",
    "Block",
    "PatchEmbed",
    "TokenEncoder",
    "ViT",
    "check_canvas",
    "encode_patches",
]
