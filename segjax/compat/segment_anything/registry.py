"""sam_model_registry: builds a `Sam` of a published size, by segment-anything's names."""

import os

from segjax.compat.segment_anything.sam import Sam
from segjax.inference.loading import read_model
from segjax.models.sam import build
from segjax.weights.registry import PUBLISHED
from segjax.weights.tree import CheckpointError


def build_sam_vit_h(checkpoint: str | os.PathLike | None = None) -> Sam:
    """Builds SAM with ViT-H. See `sam_model_registry`."""
    return _build("sam_vit_h", checkpoint)


def build_sam_vit_l(checkpoint: str | os.PathLike | None = None) -> Sam:
    """Builds SAM with ViT-L. See `sam_model_registry`."""
    return _build("sam_vit_l", checkpoint)


def build_sam_vit_b(checkpoint: str | os.PathLike | None = None) -> Sam:
    """Builds SAM with ViT-B. See `sam_model_registry`."""
    return _build("sam_vit_b", checkpoint)


build_sam = build_sam_vit_h


class _Registry(dict):
    """Dictionary whose error for a missing key names the keys."""

    def __missing__(self, key: object) -> None:
        raise KeyError(
            f"unknown size {key!r} of SAM; expected one of {', '.join(self)}. segjax.load takes "
            "every model and run"
        )


# Each function takes `checkpoint`, in any form that `segjax.load` takes: a .pth or .safetensors
# file, a run's folder, or "sam_vit_b", which is downloaded. A file of another published size is an
# error. A file of a size that segment-anything does not have, such as a small model of your own, is
# built from its array shapes. With None the model has no weights until `load_state_dict`.
sam_model_registry = _Registry(
    default=build_sam_vit_h,
    vit_h=build_sam_vit_h,
    vit_l=build_sam_vit_l,
    vit_b=build_sam_vit_b,
)


def _build(name: str, checkpoint: str | os.PathLike | None) -> Sam:
    """Builds a `Sam` of a published size, with the weights of `checkpoint`."""
    if checkpoint is None:
        return Sam(build.build_sam(name))
    network, variables, _, options = read_model(checkpoint, family="sam")
    stored = options["name"]
    if stored != name and stored in PUBLISHED:
        key = stored.removeprefix("sam_")
        raise CheckpointError(
            f"{checkpoint} holds {stored}, expected {name}; build it by sam_model_registry[{key!r}]"
        )
    return Sam(network, variables)
