"""Models of every registered family by name."""

import difflib
import functools
from typing import Any

import flax.linen as nn
import jax

from segjax.models.family import Family
from segjax.registry import FAMILIES


def build_model(name: str, **overrides: Any) -> nn.Module:
    """Builds a model by name.

    Example:
      >>> build_model("sam_vit_b", canvas=512, dtype="bfloat16").canvas
      512

    Args:
      name: a key of `model_sizes()`.
      overrides: attributes of the model to replace. `dtype` may be a string.

    Raises:
      ValueError: unknown name or attribute, naming the nearest ones.
    """
    return find_family(name).build(name, **overrides)


def init_model(model: nn.Module, key: jax.Array) -> dict[str, Any]:
    """Draws fresh variables {"params", "constants"}.

    Traceable, so `jax.eval_shape` gives the shapes alone; see `variable_shapes`.
    """
    return family_of_model(model).init(model, key)


@functools.lru_cache(maxsize=32)
def variable_shapes(model: nn.Module) -> dict[str, Any]:
    """Returns the tree of `init_model` as shapes, without allocating arrays.

    The tree is cached. Do not change it: the next caller gets the same one.
    """
    return jax.eval_shape(lambda: init_model(model, jax.random.key(0)))


def model_sizes() -> dict[str, dict[str, Any]]:
    """Returns name -> attributes of every model of every registered family.

    Raises:
      ValueError: two families have a model of the same name.
    """
    sizes: dict[str, dict[str, Any]] = {}
    for name, family in FAMILIES.items():
        if shared := sizes.keys() & family.sizes.keys():
            raise ValueError(
                f"the model family {name!r} has a model {min(shared)!r}, as another family has; "
                "give it another name"
            )
        sizes |= family.sizes
    return sizes


def find_family(name: str) -> Family:
    """Returns the family that has a model of this name.

    Raises:
      ValueError: unknown name, naming the nearest ones.
    """
    # Families are imported one by one, until one has the name
    for _, family in FAMILIES.items():
        if name in family.sizes:
            return family
    sizes = model_sizes()
    near = difflib.get_close_matches(name, sizes, cutoff=0)
    broken = "".join(f". {reason}" for reason in FAMILIES.broken.values())
    raise ValueError(
        f"unknown model {name!r}; nearest: {', '.join(near)}; all: {', '.join(sizes)}{broken}"
    )


def family_of_model(model: nn.Module) -> Family:
    """Returns the family of a module.

    Raises:
      ValueError: no registered family has modules of this class.
    """
    for _, family in FAMILIES.items():
        if isinstance(model, family.module):
            return family
    raise ValueError(
        f"{type(model).__name__} is not a module of a registered family; see segjax.register_family"
    )
