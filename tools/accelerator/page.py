"""The Markdown page of results: every table, filled or with the command that fills it."""

from collections.abc import Mapping
from typing import Any

from accelerator.catalog import TABLES, Item, Table, list_items, list_tables_of

_HEAD = """# Results: accelerators

This page is made by one command, which runs on a machine with an accelerator. It takes 25 minutes
at most, and goes on where it stopped:

```bash
python tools/accelerator --packages                # first: what has to be carried there
python tools/accelerator --out runs/accelerator
cp runs/accelerator/results.json docs/results/accelerators.json
python tools/accelerator --page docs/results/accelerators.json > docs/results/accelerators.md
```

Weights are random, inputs are drawn, and nothing is downloaded. Times are medians, each after a
call that compiles. MFU is the share of the device's bfloat16 peak (`segjax/training/throughput.py`)
that the model's own operations take, without recomputation. Sides of PyTorch have the same sizes,
inputs and dtype as segjax, on the same device.
"""


def format_page(document: Mapping[str, Any]) -> str:
    """Formats results as Markdown.

    Args:
      document: Contents of results.json, or {}.
    """
    results = document.get("items", {})
    parts = [_HEAD]
    if document.get("rehearsal"):
        parts.append("**A rehearsal in debug sizes on a CPU. The numbers mean nothing.**\n")
    elif not any(result["rows"] for result in results.values()):
        parts.append("Nothing was measured yet: no accelerator was at hand.\n")
    for name, items in list_tables_of(list_items()):
        parts.append(format_table(name, TABLES[name], items, results))
    return "\n".join(parts).rstrip()


def format_table(
    name: str, table: Table, items: list[Item], results: Mapping[str, Mapping[str, Any]]
) -> str:
    """Formats a table with its heading, its rows and what is missing.

    Args:
      name: Key of the table.
      table: Its heading and columns.
      items: The measurements that fill it.
      results: Result of each measurement by name.
    """
    lines = [f"## {table.title}", ""]
    command = f"python tools/accelerator --out runs/accelerator --only {name}"
    if table.text:
        lines += [_wrap(table.text), ""]
    known = [results[item.name] for item in items if item.name in results]
    rows = [row for result in known for row in result["rows"]]
    if rows:
        lines += ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
        lines += [_format_row(table, row) for row in rows]
        dates = sorted({result["date"] for result in known if result["rows"]})
        lines += ["", f"`{command}`, {_name_device(results)}, {' and '.join(dates)}.", ""]
    missing = [item for item in items if item.name not in results]
    if missing and not known:
        lines += [f"Not measured yet: `{command}`", ""]
    elif missing:
        names = "; ".join(item.name for item in missing)
        lines += [f"Not measured yet, by the same command: {names}.", ""]
    for item in items:
        if error := results.get(item.name, {}).get("error"):
            lines.append(f"- {item.name}: {results[item.name]['status']}. {_escape(error)}")
    return "\n".join(lines).rstrip() + "\n"


def _format_row(table: Table, row: Mapping[str, Any]) -> str:
    """Formats a row. An error takes the place of the first value that is missing."""
    cells, error = [], row.get("error")
    for key, form in table.columns.values():
        if key in row:
            cells.append(_escape(format(row[key], form)))
        else:
            cells.append(f"failed: {_escape(error)}" if error else "")
            error = None
    return "| " + " | ".join(cells) + " |"


def _name_device(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = results.get("device", {}).get("rows", [])
    return next((row["value"] for row in rows if row.get("what") == "device"), "unknown device")


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _wrap(text: str, width: int = 100) -> str:
    """Breaks lines at spaces."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
