"""Print the settings of an experiment: each with its value and what it means.

  segjax config experiments/sam/quickstart.py
  segjax config experiments/sam/coco.py:small --changed
  segjax config experiments/mae/imagenet_b.py --config.model.name=mae_vit_l --json

The tree is complete. It has the settings that the experiment file names and the defaults of its
task and model for all others. A star marks a setting that differs from its default, and the default
follows in parentheses. Any setting can be changed with --config.key=value, as in `segjax train`.
"""

import argparse
import inspect
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_NAME_WIDTH, _VALUE_WIDTH = 26, 24  # columns of the table, at most


class Setting(NamedTuple):
    """One setting of an experiment.

    Attributes:
      value: Value in this experiment.
      default: Value where the experiment does not set it.
      comment: Meaning, with unit. "" if the task does not describe it.
    """

    value: Any
    default: Any
    comment: str

    @property
    def changed(self) -> bool:
        """True if the value differs from the default."""
        return self.value != self.default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT[:VARIANT]",
        help="a config file, or a name of `segjax train --list`",
    )
    parser.add_argument(
        "--changed", action="store_true", help="only settings that differ from their defaults"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(passes_flags=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Prints the settings.

    Raises:
      ValueError: An unknown setting, task or model.
      OSError: No such experiment.
    """
    from segjax.cli.experiments import read_config
    from segjax.cli.overrides import apply_flags

    settings, groups = list_settings(apply_flags(read_config(args.experiment), rest))
    if args.changed:
        settings = {name: setting for name, setting in settings.items() if setting.changed}
    print(format_json(settings) if args.json else format_table(settings, groups))
    if not args.json and any(setting.changed for setting in settings.values()):
        note = "* differs from the default, which stands in parentheses"
        print(note, file=sys.stderr)  # standard output holds the settings alone
    return 0


def list_settings(config: Any) -> tuple[dict[str, Setting], dict[str, str]]:
    """Lists all settings of an experiment.

    Args:
      config: ConfigDict of the experiment. Settings may be missing.

    Returns:
      Settings by dotted name, and the comments of the groups by dotted name, both in the order of
      the settings classes.
    """
    from segjax.registry import TASKS
    from segjax.tasks import complete_config
    from segjax.training.defaults import as_config, flatten_config

    defaults = TASKS.get(config.task).settings()
    comments = describe_settings(defaults)
    values = flatten_config(complete_config(config))
    plain = {"task": config.task}
    if model := values.get("model.name"):
        comments |= _describe_model(model)
        # The defaults of a model's attributes are those that its name implies.
        plain["model"] = {"name": model}
    implied = flatten_config(complete_config(plain))
    if model:
        implied["model.name"] = flatten_config(as_config(defaults)).get("model.name")
    # In the order of the settings classes, a group's own settings before its groups
    order = {name: index for index, name in enumerate(comments)}
    names = sorted(values, key=lambda name: (_group_order(name, order), name.count(".") > 0))
    settings = {
        name: Setting(values[name], implied.get(name), comments.get(name, "")) for name in names
    }
    groups = {name: text for name, text in comments.items() if name not in values}
    return settings, groups


def _describe_model(name: str) -> dict[str, str]:
    """Returns the comments of a model's attributes by dotted name."""
    from segjax.models.build import find_family

    family = find_family(name)
    described = family.option_comments or describe_attributes(family.module)
    comments = {"model.name": "Name of the model. `segjax models` lists them."}
    return comments | {f"model.{option}": text for option, text in described.items()}


def describe_settings(group: Any) -> dict[str, str]:
    """Reads the comments of a group of settings, nested ones included.

    They are the `Attributes:` entries of the docstrings of the group's classes.

    Args:
      group: An instance of a dataclass of settings, or a named tuple.

    Returns:
      Comments by dotted name, such as {"optimizer.peak_lr": "Highest learning rate.", ...}. Groups
      have comments too.
    """
    from segjax.training.defaults import get_settings, is_group

    comments = describe_attributes(type(group))
    described = {}
    for name, value in get_settings(group).items():
        described[name] = comments.get(name, "")
        if is_group(value):
            inner = describe_settings(value)
            described |= {f"{name}.{key}": comment for key, comment in inner.items()}
    return described


def describe_attributes(cls: type) -> dict[str, str]:
    """Reads the `Attributes:` section of a class's docstring, and those of its base classes.

    Returns:
      Comments by attribute, each on one line.
    """
    comments: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        names: list[str] = []
        for line in section.splitlines():
            if line and not line.startswith(" "):
                break  # the next section
            # "name: text" begins an entry, and deeper lines continue it.
            if entry := re.match(r"  (\w+(?:, \w+)*): (.*)", line):
                names = entry[1].split(", ")
                comments |= dict.fromkeys(names, entry[2])
            elif line.strip():
                comments |= {name: f"{comments[name]} {line.strip()}" for name in names}
    return comments


def _group_order(name: str, order: Mapping[str, int]) -> list[int]:
    """Returns the position of a dotted name: that of its groups from the outermost to its own."""
    parts = name.split(".")
    paths = [".".join(parts[: length + 1]) for length in range(len(parts))]
    return [order.get(path, len(order)) for path in paths]


def format_json(settings: Mapping[str, Setting]) -> str:
    """Formats settings as JSON: {"optimizer.peak_lr": {"value", "default", "changed",
    "comment"}, ...}.
    """
    rows = {
        name: setting._asdict() | {"changed": setting.changed} for name, setting in settings.items()
    }
    return json.dumps(rows, indent=1)


def format_table(settings: Mapping[str, Setting], groups: Mapping[str, str]) -> str:
    """Formats settings as an indented tree with aligned columns: mark, name, value, comment.

    Args:
      settings: Settings by dotted name.
      groups: Comments of the groups by dotted name.

    Returns:
      Lines as wide as the terminal.
    """
    width = max(shutil.get_terminal_size((100, 24)).columns, 80)
    lines: list[str] = []
    open_groups: list[str] = []
    for name, setting in settings.items():
        *parents, last = name.split(".")
        # Headings of the groups that begin here
        for depth in range(len(parents)):
            if open_groups[: depth + 1] != parents[: depth + 1]:
                comment = groups.get(".".join(parents[: depth + 1]), "")
                lines += _format_row(" ", depth, parents[depth], "", comment, width)
                open_groups = parents[: depth + 1]
        open_groups = parents
        comment = setting.comment
        if setting.changed:
            comment = f"{comment} (default {_format_value(setting.default)})".strip()
        mark = "*" if setting.changed else " "
        lines += _format_row(mark, len(parents), last, _format_value(setting.value), comment, width)
    return "\n".join(lines)


def _format_value(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else str(value)


def _format_row(
    mark: str, depth: int, name: str, value: str, comment: str, width: int
) -> list[str]:
    """Formats one setting, with its comment wrapped into the last column."""
    head = f"{mark} {'  ' * depth + name:<{_NAME_WIDTH}} {value:<{_VALUE_WIDTH}}"
    column = 2 + _NAME_WIDTH + 1 + _VALUE_WIDTH + 1
    first_word = comment.partition(" ")[0]
    if first_word.isalpha() and first_word.islower():
        comment = comment[0].upper() + comment[1:]
    wrapped = textwrap.wrap(comment, width - column)
    if len(head) >= column:  # a long value has the line for itself
        return [head.rstrip(), *(" " * column + line for line in wrapped)]
    first = wrapped[0] if wrapped else ""
    return [f"{head} {first}".rstrip(), *(" " * column + line for line in wrapped[1:])]
