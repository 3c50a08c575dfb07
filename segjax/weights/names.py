"""A model's arrays from our names and layouts to those of other implementations, and back, strictly.

A table of names (`sam_table`, `mae_table`, `detection_table`) says what is called what; the moving is the same for all.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from segjax.weights.layouts import Layout, Leaves
from segjax.weights.tree import CheckpointError, differences, flatten, unflatten

OFFICIAL, HUGGINGFACE = "official", "huggingface"

# (ours, the name in each of the table's families, leaves). `{i}` stands for a number (of a block, a mask), `{p}` for a
# projection (q, k, v, out), `{c}` for the collection, where what is trained for one model is a constant of another.
# Several names in place of one hold equal parts of the array, along torch's first axis; no name, (), is an array that
# the other implementation has no place for.
Entry = tuple[str | Sequence[str] | Leaves, ...]


@dataclasses.dataclass(frozen=True)
class NameTable:
    """The names of one model's arrays in ours and in other families, such as the official files' and transformers'.

    Attributes:
      model: how messages call it. families: how messages call the others' files.
      own: path of a module that no other model of ours has.
      marks: by family, beginnings of keys that no other model has: they tell whose a state dict is.
      entries: see `Entry`.
      encoder: path of the module that holds patch_embed and trunk, "" where there is none.
      positions: by family, the key of the encoder's position table.
      ignored: by family, a pattern of keys that say nothing of the model: counters, and tables that are computed anew.
      copies: by family, arrays that are there twice: the copy's key -> the original's.
      spellings: by family, (pattern, replacement) for keys as other versions of that implementation write them.
      relatives: beginnings of keys of models that began as this one and are others now -> their names.
      fixed: (shapes of our arrays by path, family, cells of the grid's side) -> arrays that are stored there and
        computed here, by key.
      said: (state dict as the newest version spells it, family) -> attributes of the model that its arrays tell
        besides the encoder's size.
      plain: our variables of any kind of this model -> those that the entries name, the same function of a picture.
    """

    model: str
    families: Mapping[str, str]
    own: str
    marks: Mapping[str, Sequence[str]]
    entries: Sequence[Entry]
    encoder: str = ""
    positions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    spellings: Mapping[str, Sequence[tuple[str, str]]] = dataclasses.field(default_factory=dict)
    relatives: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fixed: Callable[[Mapping[str, tuple[int, ...]], str, int], dict[str, np.ndarray]] | None = None
    said: Callable[[Mapping[str, Any], str], dict[str, Any]] = lambda state, family: {}
    plain: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda variables: variables

    def __post_init__(self) -> None:
        rows = []
        for ours, *theirs, leaves in self.entries:
            for leaf, (their_leaf, layout) in leaves.items():
                path = f"{ours}/{leaf}" if leaf else ours
                pattern = path.replace("{i}", r"(?P<i>\d+)").replace("{p}", "(?P<p>q|k|v|out)")
                pattern = pattern.replace("{c}", "(?:params|constants)")
                keys = {
                    family: [f"{name}.{their_leaf}" if leaf else name for name in _listed(names)]
                    for family, names in zip(self.families, theirs, strict=True)
                }
                rows.append((re.compile(pattern), keys, layout))
        object.__setattr__(self, "_rows", rows)

    def published_names(self, path: str, family: str) -> tuple[list[str], Layout]:
        """(their keys, layout) of an array of ours.

        Raises KeyError for an array that the model does not have, CheckpointError for one that they have no place for.
        """
        for pattern, keys, layout in self._rows:
            if match := pattern.fullmatch(path):
                if not keys[family]:
                    raise CheckpointError(
                        f"{self.families[family]} has no place for {path}; other formats have"
                    )
                return [key.format(**match.groupdict()) for key in keys[family]], layout
        raise KeyError(f"{path} is no array of {self.model}'s")

    def holds(self, variables: Mapping[str, Any]) -> bool:
        """Whether variables {"params", ...} are of this model."""
        collection, module = self.own.split("/")
        return module in variables.get(collection, {})

    def family_of(self, state: Mapping[str, Any]) -> str | None:
        """Whose names the keys of a state dict are: "official", "huggingface", or None for neither."""
        found = (
            f
            for f, marks in self.marks.items()
            if any(key.startswith(tuple(marks)) for key in state)
        )
        return next(found, None)

    def relative_of(self, state: Mapping[str, Any]) -> str | None:
        """Which model of this one's kin a state dict belongs to, None when nothing in it says so."""
        starts = self.relatives.items()
        return next(
            (name for start, name in starts if any(key.startswith(start) for key in state)), None
        )

    def to_published(
        self, variables: Mapping[str, Any], family: str, *, canvas: int | None = None
    ) -> dict[str, np.ndarray]:
        """The state dict of our variables {"params", "constants"}, by their key and in their layout.

        Args:
          variables: nested dicts of arrays, the model's canonical tree.
          family: "official" or "huggingface".
          canvas: pixels a side; a model whose position tables are computed needs it, to write them out.

        Raises:
          ValueError: no canvas for a model that needs it.
        """
        variables = self.plain(variables)
        state = self._moved(variables, family)
        if self.fixed:
            if canvas is None:
                raise ValueError(
                    f"{self.model}'s files hold position tables: say for which canvas, in pixels"
                )
            shapes = _shapes(variables)
            state |= self.fixed(
                shapes, family, canvas // shapes[f"{self.encoder}/patch_embed/kernel"][0]
            )
        return state | {copy: state[key] for copy, key in self.copies.get(family, {}).items()}

    def published_shapes(
        self, variables: Mapping[str, Any], family: str, *, canvas: int | None = None
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of `to_published`'s arrays, for a tree of anything with a shape; makes no array of ours."""
        return {
            key: array.shape
            for key, array in self.to_published(_empty(variables), family, canvas=canvas).items()
        }

    def from_published(
        self,
        state: Mapping[str, np.ndarray],
        expected: Mapping[str, Any],
        *,
        family: str,
        source: str,
        hint: str = "",
    ) -> dict[str, Any]:
        """Our variables of a state dict, every key and shape of which must be that of the expected model.

        Args:
          state: arrays by their key (see `segjax.weights.state_dict.state_of` for what files wrap around them).
          expected: {"params", "constants"}, nested dicts of anything with a shape.
          family: whose names they are. source: how an error calls the file. hint: what the error says at its end.

        Raises:
          CheckpointError: arrays are missing, unexpected, misshapen (counted, the first few listed) or no numbers with
            a fraction, two copies of an array differ, or a table that we compute is another one in the file.
        """
        state = self.respelt(state, family)
        copies = self.copies.get(family, {})
        for copy, key in copies.items():
            for one, other in ((copy, key), (key, copy)):
                if one not in state and other in state:
                    state[one] = state[other]
        canvas = patch = None
        if self.fixed:
            patch = _shapes(expected)[f"{self.encoder}/patch_embed/kernel"][0]
            canvas = self.encoder_size(state, family).get("canvas", patch)
        want = self.to_published(_empty(expected), family, canvas=canvas)
        if found := differences(want, state):
            raise CheckpointError(
                f"{source} ({self.families[family]}) is of another architecture: {found}{hint}"
            )
        whole = [
            f"{key} ({array.dtype})"
            for key, array in state.items()
            if array.dtype.kind in "biucOUS"
        ]
        if whole:
            raise CheckpointError(
                f"{source} holds arrays that are no floating-point numbers: {', '.join(whole[:5])}"
            )
        for copy, key in copies.items():
            if not np.array_equal(state[copy], state[key]):
                raise CheckpointError(
                    f"{source} is damaged: {copy} and {key} are the same matrix and differ"
                )
        if self.fixed:
            self._check_fixed(state, self.fixed(_shapes(expected), family, canvas // patch), source)
        return self._collected(state, flatten(expected), family)

    def part_of(
        self,
        state: Mapping[str, np.ndarray],
        expected: Mapping[str, Any],
        *,
        family: str,
        source: str,
    ) -> tuple[dict[str, Any], list[str]]:
        """Some of our variables of a state dict, and the keys of what is left in it.

        Args: as `from_published`; `expected` holds the arrays that are wanted and no others.

        Raises:
          CheckpointError: one of them is missing or misshapen.
        """
        state = self.respelt(state, family)
        want = self._moved(_empty(expected), family)
        if found := differences(want, {key: array for key, array in state.items() if key in want}):
            raise CheckpointError(
                f"{source} ({self.families[family]}) is of another architecture: {found}"
            )
        return self._collected(state, flatten(expected), family), [
            key for key in state if key not in want
        ]

    def respelt(self, state: Mapping[str, np.ndarray], family: str) -> dict[str, np.ndarray]:
        """The state dict with its keys as the family's newest version spells them, without those that say nothing."""
        ignored = re.compile(self.ignored.get(family, "(?!)"))
        respelt = {key: array for key, array in state.items() if not ignored.fullmatch(key)}
        for pattern, replacement in self.spellings.get(family, ()):
            respelt = {re.sub(pattern, replacement, key): array for key, array in respelt.items()}
        return respelt

    def encoder_size(self, state: Mapping[str, Any], family: str) -> dict[str, Any]:
        """What the arrays say of the model, as far as they are there.

        "width", "depth", and "patch" and "canvas" in pixels; and what `said` adds.
        """
        state, size = self.respelt(state, family), {}
        if not self.encoder:
            return size
        patches = state.get(
            self.published_names(f"{self.encoder}/patch_embed/kernel", family)[0][0]
        )
        block = self.published_names(f"{self.encoder}/trunk/block_0/norm_1/scale", family)[0][0]
        numbers = [re.fullmatch(re.escape(block).replace("0", r"(\d+)", 1), key) for key in state]
        if any(numbers):
            size["depth"] = 1 + max(int(match[1]) for match in numbers if match)
        if np.ndim(patches) == 4:
            size |= {"width": patches.shape[0], "patch": patches.shape[-1]}
            table = np.shape(state.get(self.positions[family]))
            if len(table) in (3, 4):  # [1, 1 + cells, D] with a class token, or [1, h, w, D]
                size["canvas"] = patches.shape[-1] * (
                    table[1] if len(table) == 4 else math.isqrt(table[1] - 1)
                )
        return size | self.said(state, family)

    def _moved(self, variables: Mapping[str, Any], family: str) -> dict[str, np.ndarray]:
        state: dict[str, np.ndarray] = {}
        for path, array in flatten(variables).items():
            keys, layout = self.published_names(path, family)
            theirs = layout.to_torch(np.asarray(array))
            state |= (
                {keys[0]: theirs}
                if len(keys) == 1
                else dict(zip(keys, np.split(theirs, len(keys)), strict=True))
            )
        return state

    def _collected(
        self, state: Mapping[str, np.ndarray], paths: Mapping[str, Any], family: str
    ) -> dict[str, Any]:
        flat = {}
        for path in paths:
            keys, layout = self.published_names(path, family)
            parts = [state[key] for key in keys]
            flat[path] = layout.to_ours(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return unflatten(flat)

    def _check_fixed(
        self, state: Mapping[str, np.ndarray], tables: Mapping[str, np.ndarray], source: str
    ) -> None:
        for key, table in tables.items():
            found = np.asarray(state[key], np.float32)
            tolerance = (
                1e-5 if state[key].dtype.itemsize >= 4 else 4e-3
            )  # half a unit of bfloat16 at 1
            if (worst := float(np.abs(found - table).max())) > tolerance:
                raise CheckpointError(
                    f"{source} holds another {key} than {self.model} computes (they differ by {worst:.2g}): its "
                    "positions were trained or are ordered otherwise, which this model has no place for"
                )


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in flatten(variables).items()}


def _empty(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of arrays of the same shapes, of one element in memory."""
    return unflatten(
        {path: np.broadcast_to(np.int8(0), shape) for path, shape in _shapes(variables).items()}
    )
