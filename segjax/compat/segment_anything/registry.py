"""sam_model_registry: a `Sam` of a published size, by segment-anything's names."""

import os

from segjax.compat.segment_anything.sam import Sam
from segjax.inference.loading import read_model
from segjax.models.sam import build
from segjax.weights.registry import PUBLISHED
from segjax.weights.tree import CheckpointError


def build_sam_vit_h(checkpoint: str | os.PathLike | None = None) -> Sam:
    """ViT-H. See `sam_model_registry`."""
    return _built("sam_vit_h", checkpoint)


def build_sam_vit_l(checkpoint: str | os.PathLike | None = None) -> Sam:
    """ViT-L. See `sam_model_registry`."""
    return _built("sam_vit_l", checkpoint)


def build_sam_vit_b(checkpoint: str | os.PathLike | None = None) -> Sam:
    """ViT-B. See `sam_model_registry`."""
    return _built("sam_vit_b", checkpoint)


build_sam = build_sam_vit_h

# Each function takes `checkpoint`: whatever `segjax.load` takes (a .pth or .safetensors file, a run's folder, or
# "sam_vit_b", which is fetched). A file of another published size is an error; one of a size that segment-anything does
# not have, such as a small model of your own, is built as its arrays show. None: no weights yet, see `load_state_dict`.
sam_model_registry = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
}


def _built(name: str, checkpoint: str | os.PathLike | None) -> Sam:
    if checkpoint is None:
        return Sam(build.build_sam(name))
    network, variables, _, options = read_model(checkpoint, family="sam")
    found = options["name"]
    if found != name and found in PUBLISHED:
        key = found.removeprefix("sam_")
        raise CheckpointError(
            f"{checkpoint} holds {found}, expected {name}; build it by sam_model_registry[{key!r}]"
        )
    return Sam(network, variables)
