"""From a table of sizes to a module: what the builders of all models share."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax.numpy as jnp

Module = TypeVar("Module", bound=nn.Module)


def sized(
    kind: type[Module],
    sizes: Mapping[str, Mapping[str, Any]],
    name: str,
    overrides: Mapping[str, Any],
) -> Module:
    """A module of a kind with the attributes that the table has under a name, some of them replaced.

    Lists become tuples, as attributes of modules must; `dtype` may be a string.

    Raises:
      ValueError: unknown size or attribute, naming the nearest ones.
    """
    if name not in sizes:
        near = difflib.get_close_matches(name, sizes, cutoff=0) or list(sizes)
        raise ValueError(
            f"unknown model {name!r}; nearest: {', '.join(near)}; all: {', '.join(sizes)}"
        )
    unknown = set(overrides) - set(kind.__dataclass_fields__)
    if unknown:
        known = sorted(set(kind.__dataclass_fields__))
        raise ValueError(f"{kind.__name__} has no attribute {sorted(unknown)}; it has {known}")
    options = {
        k: tuple(v) if isinstance(v, list) else v for k, v in {**sizes[name], **overrides}.items()
    }
    if "dtype" in options:
        options["dtype"] = jnp.dtype(options["dtype"])
    return kind(**options)


def attributes(model: nn.Module) -> dict[str, Any]:
    """A module's attributes as a config holds them: linen's own left out, the dtype as a string."""
    values = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    values = {name: value for name, value in values.items() if name not in ("parent", "name")}
    return values | {"dtype": jnp.dtype(model.dtype).name}
