"""Reads every kind of checkpoint, and writes every kind of weight file.

A checkpoint is a run's folder, a .safetensors file of ours, or a file that another library
publishes. Each is recognized by its content.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from segjax.registry import FAMILIES, resolve
from segjax.weights.adapters.merge import merge_adapters
from segjax.weights.huggingface.folder import (
    FILES,
    check_config,
    find_weights,
    read_configs,
    read_weights,
)
from segjax.weights.names import NameTable
from segjax.weights.pickle_file import SUFFIX, read_pickle
from segjax.weights.pickles.scripts import ScriptState
from segjax.weights.registry import describe_missing
from segjax.weights.run_folder import Step, load_variables
from segjax.weights.safetensors import parse_variables, read_arrays, save_variables, write_arrays
from segjax.weights.state_dict import find_state_dict
from segjax.weights.torch_file import SUFFIXES, read_torch
from segjax.weights.torch_writer import write_torch
from segjax.weights.tree import (
    CheckpointError,
    check_variables,
    flatten,
    match_collections,
    unflatten,
)

OURS = "segjax"
_EXPECTED = (
    "a training workdir, its checkpoints folder, a folder of Hugging Face, a .safetensors file, or "
    f"one of torch.save's ({', '.join(SUFFIXES)})"
)


def name_tables() -> Iterator[NameTable]:
    """Yields the name tables of all registered model families, those of segjax's first."""
    for _, family in FAMILIES.items():
        for table in family.name_tables:
            yield resolve(table)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Arrays as they were read, before they are compared with a model.

    Attributes:
      source: name for messages.
      format: "segjax", or the format of a state dict, such as "official", "huggingface" or
        "detectron2".
      arrays: our variables {"params", "constants"}, or a state dict.
      saved: a run's config or the metadata of our file, {} where there is none. Its entry "model"
        has the options of `build_model`.
      table: names of the model that a state dict belongs to, None for our own checkpoints.
      stated: what a description beside or inside of another library's file says about its model:
        "config", "open_clip_config", or "kinds", the names of the classes of its modules.
    """

    source: str
    format: str
    arrays: Mapping[str, Any]
    saved: dict[str, Any] = dataclasses.field(default_factory=dict)
    table: NameTable | None = None
    stated: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> dict[str, Any]:
        """Attributes that a state dict tells: "width", "depth", "patch", "canvas", ..., or {}."""
        return self.table.read_sizes(self.arrays, self.format) if self.table else {}

    @property
    def derived_model(self) -> str | None:
        """Name of a model that was derived from the table's, if the keys show one."""
        return self.table.find_derived_model(self.arrays) if self.table else None

    def variables(self, expected: Mapping[str, Any], *, hint: str = "") -> dict[str, Any]:
        """Returns the arrays as our variables: exactly those of the expected model, in its types.

        An array that was trained and is frozen now, or the other way round, moves between "params"
        and "constants". Low-rank adapters are merged into their kernels.

        Args:
          expected: {"params", "constants"}, nested dicts of anything with a shape and a dtype.
          hint: end of an error about another architecture.

        Raises:
          CheckpointError: another architecture (missing, unexpected and misshapen arrays are
            counted and listed), or arrays that are not floating-point.
        """
        hint = hint or self._explain(expected)
        if self.table is None:
            arrays = merge_adapters(self.arrays, source=self.source)
            variables = match_collections(arrays, expected)
            check_variables(expected, variables, source=self.source, hint=hint)
        else:
            self._check_model(expected)
            variables = self.table.from_published(
                self.arrays, expected, format=self.format, source=self.source, hint=hint
            )
        types = {path: leaf.dtype for path, leaf in flatten(expected).items()}
        # Copies, because arrays that are mapped from a file would change with the file.
        flat = {
            path: np.array(array, types[path], order="C")
            for path, array in flatten(variables).items()
        }
        return {"params": {}, "constants": {}} | unflatten(flat)

    def _check_model(self, expected: Mapping[str, Any]) -> None:
        """Raises CheckpointError for the state dict of another model than the expected one."""
        implementation = self.table.formats[self.format]
        start = f"{self.source} holds a {self.table.model} of {implementation}; expected "
        if not self.table.matches(expected):
            wanted = _find_table(expected)
            name = wanted.model if wanted else "another model"
            raise CheckpointError(f"{start}{name}{self.table.usage}")
        if reason := self.table.refuse(expected):
            raise CheckpointError(start + reason)

    def _explain(self, expected: Mapping[str, Any]) -> str:
        wanted = _find_table(expected)
        # Arrays of another model are explained by `_check_model`.
        if wanted is None or (self.table and not self.table.matches(expected)):
            return ""
        return wanted.explain(self, expected)


def read_checkpoint(path: str | pathlib.Path, step: Step = None) -> Checkpoint:
    """Reads the checkpoint at a path, whatever kind it is.

    Example:
      checkpoint = read_checkpoint("sam_vit_b_01ec64.pth")
      checkpoint.format                                        # "official"
      variables = checkpoint.variables(variable_shapes(model))

    Args:
      path: a run's workdir, its checkpoints folder, a folder as Hugging Face publishes it
        (config.json beside the weights or their shards), a .safetensors file (ours or
        transformers'), or a file of torch.save (.pth, .pt, .bin, .ckpt) or of detectron2's model
        zoo (.pkl).
      step: checkpoint of a run: a number of steps, "best", or None for the newest.

    Raises:
      FileNotFoundError: nothing there, or no checkpoint of that step.
      ValueError: a step of a single file.
      CheckpointError: no checkpoint of a known model, or a damaged file.
    """
    # Files
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{describe_missing(path)}; expected {_EXPECTED}")
    is_file_format = path.suffix in (".safetensors", SUFFIX, *SUFFIXES)
    if is_file_format and step is not None:
        raise ValueError(f"{path} is a single file, it has no step {step}; leave step out")
    source = f"checkpoint {path}"
    if path.suffix == ".safetensors":
        return _read_safetensors(path, source)
    if is_file_format:
        return _read_state_dict(path, source)

    # Folders of runs
    if path.is_file():
        raise CheckpointError(f"{path} is a file of an unknown kind; expected {_EXPECTED}")
    if not (path / "checkpoints").is_dir() and (weights := find_weights(path)):
        if step is not None:
            raise ValueError(f"{path} is no run, it has no step {step}; leave step out")
        return _read_huggingface(path, weights, source)
    return Checkpoint(source, OURS, *load_variables(path, step))


def _read_huggingface(folder: pathlib.Path, weights: pathlib.Path, source: str) -> Checkpoint:
    """Reads a folder as Hugging Face publishes it."""
    arrays = read_weights(weights)
    state = find_state_dict(arrays, source=source, is_known=_is_known) if arrays else arrays
    checkpoint = _recognize(state, source)
    if checkpoint is None:
        some = ", ".join(key[:80] for key in sorted(state)[:3]) or "no array at all"
        raise CheckpointError(
            f"{source} ({weights.name}) holds no model that segjax has: its {len(state)} arrays "
            f"are named {some}, ..."
        )
    stated = read_configs(folder)
    if "config" in stated:
        check_config(folder, stated["config"], checkpoint.size)
    return dataclasses.replace(checkpoint, stated=stated)


def _read_neighbors(path: pathlib.Path) -> dict[str, Any]:
    """Returns the configs beside a file that has the name of a folder's weights, else {}."""
    return read_configs(path.parent) if path.name in FILES else {}


def _read_safetensors(path: pathlib.Path, source: str) -> Checkpoint:
    arrays, header = read_arrays(path)
    state = find_state_dict(arrays, source=source, is_known=_is_known) if arrays else arrays
    if checkpoint := _recognize(state, source):
        return dataclasses.replace(checkpoint, stated=_read_neighbors(path))
    return Checkpoint(source, OURS, *parse_variables(arrays, header, source=str(path)))


def _read_state_dict(path: pathlib.Path, source: str) -> Checkpoint:
    content = read_pickle(path) if path.suffix == SUFFIX else read_torch(path)
    state = find_state_dict(content, source=source, is_known=_is_known)
    if checkpoint := _recognize(state, source):
        stated = _read_neighbors(path)
        if isinstance(content, ScriptState):
            stated = {"kinds": content.kinds}
        return dataclasses.replace(checkpoint, stated=stated)
    some = ", ".join(key[:80] for key in sorted(state)[:3])
    known = " and no ".join(
        f"{table.model} of {' or '.join(table.formats.values())}" for table in name_tables()
    )
    raise CheckpointError(
        f"{source} holds no {known}: its {len(state)} arrays are named {some}, ..."
    )


def _recognize(state: Mapping[str, np.ndarray], source: str) -> Checkpoint | None:
    if found := _find_format(state):
        table, format = found
        return Checkpoint(source, format, state, table=table)
    return None


def _is_known(state: Mapping[str, Any]) -> bool:
    """Tells whether keys are those of a known model, or our own."""
    return bool(_find_format(state)) or all(
        key.startswith(("params", "constants")) for key in state
    )


def _find_format(state: Mapping[str, Any]) -> tuple[NameTable, str] | None:
    for table in name_tables():
        if format := table.find_format(state):
            return table, format
    return None


def _find_table(variables: Mapping[str, Any]) -> NameTable | None:
    return next((table for table in name_tables() if table.matches(variables)), None)


def write_checkpoint(
    path: str | pathlib.Path,
    variables: Mapping[str, Any],
    *,
    format: str | None = None,
    metadata: Mapping[str, Any],
    canvas: int | None = None,
) -> tuple[str, int]:
    """Writes variables to one file, completely or not at all.

    Args:
      path: .safetensors, or .pth, .pt, .bin or .ckpt for torch.
      variables: {"params", "constants"} of a model.
      format: "segjax" or a format of the model's `NameTable`s. None: ours in .safetensors, the
        first of the model's formats in a file for torch.
      metadata: description of the model in our own format: {"model": {"name": ...}}. Other formats
        cannot hold it.
      canvas: side of the model's canvas in pixels. Other formats store a MAE's position tables,
        which depend on it.

    Returns:
      The format, and the number of arrays that were written.

    Raises:
      ValueError: an unknown suffix, a format that has no names for the model, or our names in a
        file for torch.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".safetensors", *SUFFIXES):
        raise ValueError(
            f"{path} is of an unknown kind; expected .safetensors or, for torch, "
            f"{', '.join(SUFFIXES)}"
        )
    # Choose the format
    for_torch = path.suffix in SUFFIXES
    tables = {
        format: table
        for table in name_tables()
        if table.matches(variables)
        for format in table.formats
    }
    if format is None:
        format = next(iter(tables), OURS) if for_torch else OURS
    if format != OURS and format not in tables:
        raise ValueError(
            f"format {format!r} has no names for this model; choose one of "
            f"{', '.join((OURS, *tables))}"
        )
    if for_torch and format == OURS:
        raise ValueError(
            f"{path} is a file for torch, which cannot hold segjax's own names; write a "
            ".safetensors file"
        )
    # Write
    if format == OURS:
        save_variables(path, variables, metadata)
        return format, len(flatten(variables))
    state = tables[format].to_published(variables, format, canvas=canvas)
    if for_torch:
        write_torch(path, state)
    else:
        write_arrays(path, state, {"format": "pt"})  # transformers insists on this header
    return format, len(state)
