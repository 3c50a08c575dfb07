"""Moves a model's arrays between our names and layouts and those of other implementations.

A `NameTable` says which array of ours is which of theirs. `segjax.weights.tables` has one for each
model and library, and this module does the moving, which is the same for all. Moving is strict:
every array is accounted for.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from segjax.weights.layouts import Layout, Leaves
from segjax.weights.state_dict import warn_ignored
from segjax.weights.tree import CheckpointError, describe_differences, flatten, unflatten

OFFICIAL, HUGGINGFACE = "official", "huggingface"

# (our module, its name in each of the table's formats, leaves).
# In names `{i}` stands for a number (of a block, of a mask), `{p}` for a projection (q, k, v, out),
# and `{c}` for the collection, if one model trains an array and another freezes it. Several names
# in place of one hold equal parts of the array, along torch's first axis. No name, (), means that
# the format cannot hold the array.
Entry = tuple[str | Sequence[str] | Leaves, ...]


@dataclasses.dataclass(frozen=True)
class NameTable:
    """Names of one model's arrays in our tree and in the formats of other implementations.

    A format is a way to name arrays, such as "official" (the paper's code) or "huggingface".

    Attributes:
      model: name of the model for messages.
      formats: format -> name of the implementation for messages.
      own_module: path "collection/module" that only this model of ours has.
      signatures: format -> beginnings of keys by which a state dict is recognized.
      foreign_keys: format -> beginnings of keys that a model with the same signatures has and this
        one does not.
      entries: see `Entry`.
      encoder: path of the module that holds patch_embed and trunk, "" for a model without.
      position_keys: format -> key of the encoder's position table.
      ignored_keys: format -> pattern of keys that are not part of the model, such as counters.
      duplicates: format -> {key of the copy: key of the original}, for arrays stored twice.
      renamed_keys: format -> (pattern, replacement) for keys of other versions of that library.
      derived_models: beginnings of keys of models that were derived from this one -> their names.
      computed_tables: called as f(shapes of our arrays by path, format, side of the grid in cells),
        returns arrays by key that the format stores and we compute.
      accepts: called with a state dict whose keys fit, tells whether it is this model's.
      from_format: called as f(state dict, format) after `renamed_keys`, returns the arrays that
        `entries` name, for files that store them in parts or leave some out.
      to_format: called as f(state dict, format), the inverse of `from_format`.
      read_options: called as f(state dict with the newest keys, format), returns attributes of the
        model that the arrays tell, besides the size of the encoder.
      simplify: called with our variables, returns those that `entries` name and that compute the
        same function of an image.
      refuse: called with our variables, returns the reason why no file of another library can fill
        them, "" for none.
      usage: what a file is good for when a command wants another model, for the end of an error.
      explain: called as f(checkpoint, our expected variables), returns the end of an error about
        arrays that do not fit: how to fix it.
    """

    model: str
    formats: Mapping[str, str]
    own_module: str
    signatures: Mapping[str, Sequence[str]]
    entries: Sequence[Entry]
    foreign_keys: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    encoder: str = ""
    position_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    duplicates: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    renamed_keys: Mapping[str, Sequence[tuple[str, Any]]] = dataclasses.field(default_factory=dict)
    derived_models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    computed_tables: Callable[..., dict[str, np.ndarray]] | None = None
    accepts: Callable[[Mapping[str, Any]], bool] = lambda state: True
    from_format: Callable[[dict[str, Any], str], dict[str, Any]] = lambda state, format: state
    to_format: Callable[[dict[str, Any], str], dict[str, Any]] = lambda state, format: state
    read_options: Callable[[Mapping[str, Any], str], dict[str, Any]] = lambda state, format: {}
    simplify: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda variables: variables
    refuse: Callable[[Mapping[str, Any]], str] = lambda variables: ""
    usage: str = ""
    explain: Callable[[Any, Mapping[str, Any]], str] = lambda checkpoint, expected: ""

    def __post_init__(self) -> None:
        # A pattern of our paths for each array of an entry
        rows = []
        for ours, *theirs, leaves in self.entries:
            for leaf, (their_leaf, layout) in leaves.items():
                path = f"{ours}/{leaf}" if leaf else ours
                pattern = path.replace("{i}", r"(?P<i>\d+)").replace("{p}", "(?P<p>q|k|v|out)")
                pattern = pattern.replace("{c}", "(?:params|constants)")
                keys = {
                    format: [f"{name}.{their_leaf}" if leaf else name for name in _as_list(names)]
                    for format, names in zip(self.formats, theirs, strict=True)
                }
                rows.append((re.compile(pattern), keys, layout))
        object.__setattr__(self, "_rows", rows)

    def published_keys(self, path: str, format: str) -> tuple[list[str], Layout]:
        """Returns the keys of one of our arrays in a format, and its layout there.

        Raises:
          KeyError: the model has no such array.
          CheckpointError: the format cannot hold the array.
        """
        for pattern, keys, layout in self._rows:
            if match := pattern.fullmatch(path):
                if not keys[format]:
                    raise CheckpointError(
                        f"{self.formats[format]} has no place for {path}; other formats have"
                    )
                return [key.format(**match.groupdict()) for key in keys[format]], layout
        raise KeyError(f"{path} is not an array of {self.model}")

    def matches(self, variables: Mapping[str, Any]) -> bool:
        """Tells whether variables {"params", "constants"} belong to this model."""
        branch: Any = variables
        for name in self.own_module.split("/"):
            if not isinstance(branch, Mapping) or name not in branch:
                return False
            branch = branch[name]
        return True

    def find_format(self, state: Mapping[str, Any]) -> str | None:
        """Returns the format of a state dict by its keys, None for another model's."""
        for format, beginnings in self.signatures.items():
            foreign = tuple(self.foreign_keys.get(format, ()))
            is_ours = any(key.startswith(tuple(beginnings)) for key in state)
            if is_ours and not any(key.startswith(foreign) for key in state):
                return format if self.accepts(state) else None
        return None

    def find_derived_model(self, state: Mapping[str, Any]) -> str | None:
        """Returns the name of the derived model that a state dict belongs to, None for this one."""
        for beginning, name in self.derived_models.items():
            if any(key.startswith(beginning) for key in state):
                return name
        return None

    def to_published(
        self, variables: Mapping[str, Any], format: str, *, canvas: int | None = None
    ) -> dict[str, np.ndarray]:
        """Returns our variables as a state dict of a format, in its layout.

        Args:
          variables: {"params", "constants"}, nested dicts of arrays.
          format: one of `formats`.
          canvas: side in pixels. Only models whose position tables are computed need it, to write
            the tables.

        Raises:
          ValueError: no canvas for a model that needs it.
        """
        return self.to_format(self._name_arrays(variables, format, canvas), format)

    def _name_arrays(
        self, variables: Mapping[str, Any], format: str, canvas: int | None
    ) -> dict[str, np.ndarray]:
        """Returns our variables under the names of `entries`, see `to_published`."""
        variables = self.simplify(variables)
        state = self._to_state(variables, format)
        if self.computed_tables:
            if canvas is None:
                raise ValueError(
                    f"{self.model}'s files hold position tables: say for which canvas, in pixels"
                )
            if not isinstance(canvas, int):
                raise ValueError(
                    f"{self.model}'s files hold position tables of square images; this canvas is "
                    f"{canvas}: write the segjax format"
                )
            shapes = _shapes(variables)
            side = canvas // shapes[f"{self.encoder}/patch_embed/kernel"][0]
            state |= self.computed_tables(shapes, format, side)
        return state | {copy: state[key] for copy, key in self.duplicates.get(format, {}).items()}

    def published_shapes(
        self, variables: Mapping[str, Any], format: str, *, canvas: int | None = None
    ) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of `to_published`'s arrays, without allocating ours.

        Args:
          variables: {"params", "constants"}, nested dicts of anything with a shape.
          format: one of `formats`.
          canvas: as for `to_published`.
        """
        state = self.to_published(_placeholders(variables), format, canvas=canvas)
        return {key: array.shape for key, array in state.items()}

    def from_published(
        self,
        state: Mapping[str, np.ndarray],
        expected: Mapping[str, Any],
        *,
        format: str,
        source: str,
        hint: str = "",
    ) -> dict[str, Any]:
        """Returns our variables of a state dict that fits the expected model exactly.

        Args:
          state: arrays by their key, without wrappers (see `segjax.weights.state_dict`).
          expected: {"params", "constants"}, nested dicts of anything with a shape.
          format: one of `formats`.
          source: name of the file for messages.
          hint: end of the error about another architecture.

        Raises:
          CheckpointError: arrays are missing, unexpected, of another shape (counted, the first few
            listed) or not floating-point, two copies of an array differ, or a stored table differs
            from the one that we compute.
        """
        # Copies that are missing, and the canvas of computed tables
        state = self.normalize_keys(state, format)
        duplicates = self.duplicates.get(format, {})
        for copy, key in duplicates.items():
            for one, other in ((copy, key), (key, copy)):
                if one not in state and other in state:
                    state[one] = state[other]
        canvas = patch = None
        if self.computed_tables:
            patch = _shapes(expected)[f"{self.encoder}/patch_embed/kernel"][0]
            canvas = self.read_sizes(state, format).get("canvas", patch)

        # Names, shapes and types
        wanted = self._name_arrays(_placeholders(expected), format, canvas)
        # Numbers such as "best_loss" beside the parameters of a file without a wrapper
        numbers = [key for key in state if key not in wanted and "." not in key]
        if numbers := [key for key in numbers if np.ndim(state[key]) == 0]:
            warn_ignored(source, "numbers beside the parameters", numbers)
            state = {key: array for key, array in state.items() if key not in numbers}
        if differences := describe_differences(wanted, state):
            raise CheckpointError(
                f"{source} ({self.formats[format]}) is of another architecture: {differences}{hint}"
            )
        integers = [
            f"{key} ({array.dtype})"
            for key, array in state.items()
            if array.dtype.kind in "biucOUS"
        ]
        if integers:
            raise CheckpointError(
                f"{source} holds arrays that are not floating-point: {', '.join(integers[:5])}"
            )

        # Values that must agree
        for copy, key in duplicates.items():
            if not np.array_equal(state[copy], state[key]):
                raise CheckpointError(
                    f"{source} is damaged: {copy} and {key} are the same matrix and differ"
                )
        if self.computed_tables:
            tables = self.computed_tables(_shapes(expected), format, canvas // patch)
            self._check_tables(state, tables, source)
        return self._from_state(state, flatten(expected), format)

    def load_part(
        self,
        state: Mapping[str, np.ndarray],
        expected: Mapping[str, Any],
        *,
        format: str,
        source: str,
    ) -> tuple[dict[str, Any], list[str]]:
        """Returns some of our variables of a state dict, and the keys that are left in it.

        Args:
          state: arrays by their key.
          expected: {"params", "constants"} with the arrays that are wanted and no others.
          format: one of `formats`.
          source: name of the file for messages.

        Raises:
          CheckpointError: one of the arrays is missing or of another shape.
        """
        state = self.normalize_keys(state, format)
        wanted = self._to_state(_placeholders(expected), format)
        given = {key: array for key, array in state.items() if key in wanted}
        if differences := describe_differences(wanted, given):
            raise CheckpointError(
                f"{source} ({self.formats[format]}) is of another architecture: {differences}"
            )
        rest = [key for key in state if key not in wanted]
        return self._from_state(state, flatten(expected), format), rest

    def normalize_keys(self, state: Mapping[str, np.ndarray], format: str) -> dict[str, np.ndarray]:
        """Returns the state dict with the keys of the library's newest version.

        Keys that are not part of the model are left out.
        """
        ignored = re.compile(self.ignored_keys.get(format, "(?!)"))
        renamed = {key: array for key, array in state.items() if not ignored.fullmatch(key)}
        for pattern, replacement in self.renamed_keys.get(format, ()):
            renamed = {re.sub(pattern, replacement, key): array for key, array in renamed.items()}
        return self.from_format(renamed, format)

    def read_sizes(self, state: Mapping[str, Any], format: str) -> dict[str, Any]:
        """Returns the attributes of the model that the arrays tell, as far as they are there.

        Returns:
          "width", "depth", and "patch" and "canvas" in pixels, and whatever `read_options` adds.
        """
        state, size = self.normalize_keys(state, format), {}
        if not self.encoder:
            return size
        (patch_key,), _ = self.published_keys(f"{self.encoder}/patch_embed/kernel", format)
        (block_key,), _ = self.published_keys(f"{self.encoder}/trunk/block_0/norm_1/scale", format)

        # Depth, from the numbers of the blocks
        block_pattern = re.escape(block_key).replace("0", r"(\d+)", 1)
        numbers = [re.fullmatch(block_pattern, key) for key in state]
        if any(numbers):
            size["depth"] = 1 + max(int(match[1]) for match in numbers if match)

        # Width and patch, and with them the canvas from the number of positions
        patches = state.get(patch_key)
        if np.ndim(patches) == 4:
            size |= {"width": patches.shape[0], "patch": patches.shape[-1]}
            table = np.shape(state.get(self.position_keys.get(format, "")))
            if len(table) in (3, 4):  # [1, 1 + cells, D] with a class token, or [1, h, w, D]
                side = table[1] if len(table) == 4 else math.isqrt(table[1] - 1)
                size["canvas"] = patches.shape[-1] * side
        return size | self.read_options(state, format)

    def _to_state(self, variables: Mapping[str, Any], format: str) -> dict[str, np.ndarray]:
        state: dict[str, np.ndarray] = {}
        for path, array in flatten(variables).items():
            keys, layout = self.published_keys(path, format)
            theirs = layout.to_torch(np.asarray(array))
            parts = [theirs] if len(keys) == 1 else np.split(theirs, len(keys))
            state |= dict(zip(keys, parts, strict=True))
        return state

    def _from_state(
        self, state: Mapping[str, np.ndarray], paths: Mapping[str, Any], format: str
    ) -> dict[str, Any]:
        flat = {}
        for path in paths:
            keys, layout = self.published_keys(path, format)
            parts = [state[key] for key in keys]
            flat[path] = layout.to_ours(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return unflatten(flat)

    def _check_tables(
        self, state: Mapping[str, np.ndarray], tables: Mapping[str, np.ndarray], source: str
    ) -> None:
        for key, table in tables.items():
            stored = np.asarray(state[key], np.float32)
            # Half a unit of bfloat16 at 1, for files in half precision.
            tolerance = 1e-5 if state[key].dtype.itemsize >= 4 else 4e-3
            if (worst := float(np.abs(stored - table).max())) > tolerance:
                raise CheckpointError(
                    f"{source} holds another {key} than {self.model} computes (they differ by "
                    f"{worst:.2g}): its positions were trained or are in another order, which this "
                    "model cannot hold"
                )


def _as_list(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in flatten(variables).items()}


def _placeholders(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a tree of arrays of the same shapes, each of one element in memory."""
    return unflatten(
        {path: np.broadcast_to(np.int8(0), shape) for path, shape in _shapes(variables).items()}
    )
