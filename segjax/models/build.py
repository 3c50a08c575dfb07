"""Every model by name, whatever its kind."""

import difflib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from segjax.models import classifier, mae
from segjax.models.classifier import Classifier, build_classifier, init_classifier
from segjax.models.detection import build as detection
from segjax.models.detection.build import build_mask_rcnn, init_mask_rcnn
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.mae import Mae, build_mae, init_mae
from segjax.models.sam import build as sam
from segjax.models.sam.build import build_sam, init_sam
from segjax.models.sam.sam import Sam


class Kind(NamedTuple):
    """A family of models: what it is called, its sizes by name, and the functions that build and initialise one."""

    title: str
    module: type[nn.Module]
    sizes: dict[str, dict[str, Any]]
    build: Callable[..., nn.Module]
    init: Callable[[nn.Module, jax.Array], dict]


KINDS = (
    Kind("SAM", Sam, sam.SIZES, build_sam, init_sam),
    Kind("MAE", Mae, mae.SIZES, build_mae, init_mae),
    Kind("ViT", Classifier, classifier.SIZES, build_classifier, init_classifier),
    Kind("Mask R-CNN", MaskRcnn, detection.SIZES, build_mask_rcnn, init_mask_rcnn),
)
SIZES = {name: options for kind in KINDS for name, options in kind.sizes.items()}


def build_model(name: str, **overrides: Any) -> nn.Module:
    """A model by name, with any of its attributes replaced; `dtype` may be a string.

    Raises:
      ValueError: unknown name or attribute, naming the nearest ones.
    """
    return kind_of(name).build(name, **overrides)


def kind_of(name: str) -> Kind:
    """The kind that a name is of. Raises ValueError for an unknown name, naming the nearest ones."""
    kind = next((kind for kind in KINDS if name in kind.sizes), None)
    if kind is None:
        near = difflib.get_close_matches(name, SIZES, cutoff=0)
        raise ValueError(
            f"unknown model {name!r}; nearest: {', '.join(near)}; all: {', '.join(SIZES)}"
        )
    return kind


def init_model(model: nn.Module, key: jax.Array) -> dict[str, Any]:
    """Fresh variables {"params", "constants"}; traceable, so `jax.eval_shape` gives the shapes alone."""
    return next(kind for kind in KINDS if isinstance(model, kind.module)).init(model, key)


@functools.lru_cache(maxsize=32)
def shapes_of(model: nn.Module) -> dict[str, Any]:
    """The tree of `init_model` as shapes, without arrays. Do not change it: the next caller gets the same one."""
    return jax.eval_shape(lambda: init_model(model, jax.random.key(0)))
