"""Tables of parameter trees: what a model holds, how two trees differ, how a tree is sharded."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from segjax.models.build import variable_shapes
from segjax.weights.tree import flatten


class Table:
    """Rows with named columns, which print as text and show as HTML in a notebook.

    Attributes:
      columns: names of the columns.
      rows: values of each row.
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.columns, self.rows = list(columns), [list(row) for row in rows]

    def __repr__(self) -> str:
        """Returns the table as aligned text."""
        cells = [self.columns, *[[_format(value) for value in row] for row in self.rows]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def _repr_html_(self) -> str:
        """Returns the table for a notebook."""
        row = lambda tag, values: (
            "<tr>" + "".join(f"<{tag}>{html.escape(_format(x))}</{tag}>" for x in values) + "</tr>"
        )
        body = "".join(row("td", values) for values in self.rows)
        return f"<table>{row('th', self.columns)}{body}</table>"


def summary(model: nn.Module, depth: int = 2) -> Table:
    """Lists the modules of a model with their parameters, without allocating any.

    Example:
      >>> table = summary(build_model("sam_debug"), depth=1)
      >>> table.columns
      ['module', 'arrays', 'parameters', 'share', 'MiB']

    Args:
      model: a module of a registered family.
      depth: levels of the tree that are rows of their own.
    """
    sums: dict[str, list[int]] = {}
    for path, leaf in flatten(variable_shapes(model)["params"]).items():
        parts = path.split("/")
        for level in range(min(depth, len(parts) - 1) + 1):
            row = sums.setdefault("/".join(parts[:level]), [0, 0])
            row[0] += 1
            row[1] += math.prod(leaf.shape)
    total = sums.get("", [0, 0])[1]
    rows = [
        (path or type(model).__name__, arrays, count, f"{count / max(total, 1):.1%}", count / 2**18)
        for path, (arrays, count) in sums.items()
    ]
    return Table(("module", "arrays", "parameters", "share", "MiB"), rows)


def compare(a: Mapping[str, Any], b: Mapping[str, Any], limit: int = 20) -> Table:
    """Lists the arrays in which two trees differ, the largest relative change first.

    Args:
      a: nested dicts of arrays, such as the variables of a checkpoint.
      b: the same, such as those of another checkpoint.
      limit: most rows.

    Returns:
      Columns "array", "shape", "relative change" (norm of the difference over the norm in `a`) and
      "largest". Arrays that one tree lacks, or that have another shape, come first.
    """
    one, two = flatten(a), flatten(b)
    missing, changed = [], []
    for path in sorted(one.keys() | two.keys()):
        if path not in one or path not in two:
            missing.append((path, "only in " + ("a" if path in one else "b"), "", ""))
            continue
        x, y = (np.asarray(tree[path], np.float64) for tree in (one, two))
        if x.shape != y.shape:
            missing.append((path, f"{x.shape} and {y.shape}", "", ""))
        elif not np.array_equal(x, y, equal_nan=True):
            norm = np.linalg.norm(x)
            change = float(np.linalg.norm(y - x) / norm) if norm else math.inf
            changed.append((path, str(x.shape), change, float(np.abs(y - x).max())))
    changed.sort(key=lambda row: -row[2])
    columns = ("array", "shape", "relative change", "largest")
    return Table(columns, [*missing, *changed][:limit])


def sharding_table(tree: Mapping[str, Any], limit: int = 40) -> Table:
    """Lists how the largest arrays of a tree are divided among devices.

    Args:
      tree: nested dicts of jax arrays, or of shapes with a sharding.
      limit: most rows.

    Returns:
      Columns "array", "shape", "sharding" (the partition spec), "devices" and "MiB per device".
    """
    rows = []
    for path, leaf in flatten(tree).items():
        sharding = getattr(leaf, "sharding", None)
        spec = getattr(sharding, "spec", None)
        own = sharding.shard_shape(leaf.shape) if sharding is not None else leaf.shape
        devices = len(sharding.device_set) if sharding is not None else 1
        size = math.prod(own) * np.dtype(leaf.dtype).itemsize / 2**20
        rows.append(
            (path, str(tuple(leaf.shape)), "-" if spec is None else str(tuple(spec)), devices, size)
        )
    rows.sort(key=lambda row: -row[4])
    return Table(("array", "shape", "sharding", "devices", "MiB per device"), rows[:limit])


def _format(value: Any) -> str:
    """Returns a value of a cell as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return str(value)
    return f"{value:,}" if isinstance(value, (int, np.integer)) else f"{value:.4g}"
