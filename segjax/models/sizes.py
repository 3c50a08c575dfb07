"""Tables of sizes: from a model's name to a module. The builders of all families share this."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax.numpy as jnp

# Of a model's computation. Parameters stay float32.
DTYPES = ("float32", "bfloat16", "float16", "float64")
Module = TypeVar("Module", bound=nn.Module)


def build_from_size(
    module: type[Module],
    sizes: Mapping[str, Mapping[str, Any]],
    name: str,
    overrides: Mapping[str, Any],
) -> Module:
    """Builds a module with the attributes of a size, some of them replaced.

    Args:
      module: class of the module.
      sizes: name -> attributes.
      name: size to build.
      overrides: attributes to replace. Lists become tuples. `dtype` may be a string.

    Raises:
      ValueError: unknown size or attribute, naming the nearest ones.
    """
    options = resolve_options(module.__name__, module.__dataclass_fields__, sizes, name, overrides)
    if "dtype" in options:
        options["dtype"] = parse_dtype(options["dtype"])
    return module(**options)


def parse_dtype(dtype: Any) -> jnp.dtype:
    """Returns the dtype of a model's computation.

    Args:
      dtype: name such as "bfloat16", or a dtype.

    Raises:
      ValueError: another name or type, naming the nearest one.
    """
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        given = dtype if isinstance(dtype, str) else repr(dtype)
        meant = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}
        near = meant.get(given) or (difflib.get_close_matches(given, DTYPES, 1) or [None])[0]
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"dtype is {given!r}; expected one of {', '.join(DTYPES)}{hint}")
    return found


def resolve_options(
    owner: str,
    known: Collection[str],
    sizes: Mapping[str, Mapping[str, Any]],
    name: str,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Looks up the options of a size and replaces some of them.

    Args:
      owner: name of the model class, for the error message.
      known: names of all options that the model has.
      sizes: options by size.
      name: size to look up.
      overrides: options to replace.

    Returns:
      The options of the size, with the overrides. Lists become tuples, as modules need them.

    Raises:
      ValueError: unknown size or option, naming the nearest ones.
    """
    if name not in sizes:
        near = difflib.get_close_matches(name, sizes, cutoff=0) or list(sizes)
        raise ValueError(
            f"unknown model {name!r}; nearest: {', '.join(near)}; all: {', '.join(sizes)}"
        )
    if unknown := sorted(set(overrides) - set(known)):
        near = [difflib.get_close_matches(key, known, 1, cutoff=0)[0] for key in unknown]
        raise ValueError(
            f"{owner} has no attribute {unknown}; nearest: {', '.join(near)}; it has "
            f"{sorted(known)}"
        )
    options = {**sizes[name], **overrides}
    return {key: tuple(x) if isinstance(x, list) else x for key, x in options.items()}


def get_model_options(model: nn.Module) -> dict[str, Any]:
    """Returns a module's attributes as a config holds them: without linen's, dtype as a string."""
    values = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    values = {name: value for name, value in values.items() if name not in ("parent", "name")}
    return values | {"dtype": jnp.dtype(model.dtype).name}
