"""Registries of model families, tasks, data sources and experiments, which users extend.

An entry is an object or a reference "package.module:name", imported when it is first used. Three
ways lead into a registry:

* segjax's own entries, listed in this file.
* A plain call, in any module that is imported before the name is used. An experiment's config
  file is a good place:

      import segjax
      segjax.register_task("my_task", MyTask)

* An entry point of an installed package, which works in every command without an import:

      [options.entry_points]
      segjax.tasks =
          my_task = my_package.tasks:MyTask
"""

import difflib
import importlib
import importlib.metadata
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

logger = logging.getLogger(__name__)


class Registry:
    """Named entries of one kind, which resolve their references on use.

    Example:
      >>> colors = Registry("color", "my_package.colors", {"red": "my_package.red:RED"})
      >>> colors.register("blue", (0, 0, 255))
      >>> colors.get("blue")
      (0, 0, 255)

    Attributes:
      kind: noun for error messages, such as "data source".
      group: name of the entry-point group that is searched besides `entries`.
      entries: name -> object, or reference "package.module:name". Tests may replace one.
      expected: reference to the class of all entries, "" for any.
      broken: name -> reason, of the entries that `items` has left out.
    """

    def __init__(
        self, kind: str, group: str, entries: Mapping[str, Any], expected: str = ""
    ) -> None:
        self.kind = kind
        self.group = group
        self.entries = dict(entries)
        self.expected = expected
        self._plugins: dict[str, importlib.metadata.EntryPoint] | None = None
        self.broken: dict[str, str] = {}  # name -> why `items` leaves it out

    def register(self, name: str, entry: Any, *, replace: bool = False) -> None:
        """Adds an entry under a name.

        Args:
          name: what configs and commands call it.
          entry: the object, or a reference "package.module:name" that is imported on first use.
          replace: allow a name that is taken.

        Raises:
          ValueError: the name is no text, or taken by another entry.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"the name of a {self.kind} is {name!r}; expected a text")
        if not replace and not _is_same(self.entries.get(name, entry), entry):
            raise ValueError(
                f"the {self.kind} {name!r} is registered already, as {self.entries[name]!r}; "
                "choose another name, or pass replace=True"
            )
        self.entries[name] = entry
        self.broken.pop(name, None)

    def get(self, name: str) -> Any:
        """Returns the entry of a name.

        Raises:
          ValueError: no such name (the message lists the nearest and all), or an entry that
            cannot be imported.
        """
        if name in self.entries:
            try:
                return resolve(self.entries[name])
            except ValueError as error:
                raise ValueError(f"the {self.kind} {name!r} cannot be used: {error}") from error
        if name in self._entry_points():
            return self._load(self._entry_points()[name])
        names = self.names()
        near = difflib.get_close_matches(str(name), names, cutoff=0)
        raise ValueError(
            f"unknown {self.kind} {name!r}; nearest: {', '.join(near)}; all: {', '.join(names)}"
        )

    def names(self) -> list[str]:
        """Returns all names: segjax's, then registered ones, then those of entry points."""
        return [*self.entries, *self._entry_points()]

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yields (name, entry) in the order of `names`, importing each when its turn comes.

        Entries that cannot be imported or are not of the expected class are left out with one
        warning each, so that a broken package stops only those commands that need it. `broken`
        keeps the reasons.
        """
        expected = resolve(self.expected) if self.expected else object
        for name in self.names():
            if name in self.broken:
                continue
            try:
                entry = self.get(name)
                if not isinstance(entry, expected):
                    raise ValueError(
                        f"the {self.kind} {name!r} is of class {type(entry).__name__}; expected "
                        f"{expected.__name__}"
                    )
            except ValueError as error:
                self.broken[name] = str(error)
                logger.warning("%s. It is left out", error)
                continue
            yield name, entry

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self._entry_points()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        # Searching all installed packages takes time, so it is done once
        if self._plugins is None:
            self._plugins = {}
            for point in importlib.metadata.entry_points(group=self.group):
                if point.name in self._plugins:
                    logger.warning(
                        "two entry points of %s are named %r; the first is used",
                        self.group,
                        point.name,
                    )
                self._plugins.setdefault(point.name, point)
        # A registered name hides an entry point of the same name: its package may do both.
        return {name: point for name, point in self._plugins.items() if name not in self.entries}

    def _load(self, point: importlib.metadata.EntryPoint) -> Any:
        try:
            return resolve(point.value)
        except ValueError as error:
            package = point.dist.name if point.dist else "unknown"
            raise ValueError(
                f"the {self.kind} {point.name!r} of the package {package!r} cannot be used: {error}"
            ) from error


def _is_same(old: Any, new: Any) -> bool:
    """Tells whether two entries are one definition, perhaps executed twice (a config file is)."""
    if old == new:
        return True
    names = [
        (getattr(entry, "__module__", None), getattr(entry, "__qualname__", None))
        for entry in (old, new)
    ]
    return names[0] == names[1] and None not in names[0]


def resolve(entry: Any) -> Any:
    """Returns the object that a reference "package.module:name" names.

    Anything but a string is returned as it is.

    Raises:
      ValueError: the string is not of that form, or the module or the name does not exist.
    """
    if not isinstance(entry, str):
        return entry
    module, colon, name = entry.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{entry!r} is not a reference; expected 'package.module:name'")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a foreign module may fail in any way while it is imported
        kind = type(error).__name__
        raise ValueError(f"the reference {entry!r} cannot be imported: {kind}: {error}") from error


# Order matters in lists for people alone: `segjax models` prints families in this one.
FAMILIES = Registry(
    "model family",
    "segjax.families",
    {
        "sam": "segjax.models.sam.family:FAMILY",
        "mae": "segjax.models.mae:FAMILY",
        "vit": "segjax.models.classifier:FAMILY",
        "mask_rcnn": "segjax.models.detection.family:FAMILY",
        "clip": "segjax.models.clip.family:FAMILY",
        "dino": "segjax.models.dino.family:FAMILY",
    },
    expected="segjax.models.family:Family",
)
TASKS = Registry(
    "task",
    "segjax.tasks",
    {
        "promptable": "segjax.tasks.promptable.task:Promptable",
        "reconstruction": "segjax.tasks.reconstruction.task:Reconstruction",
        "classification": "segjax.tasks.classification.task:Classification",
        "detection": "segjax.tasks.detection.task:Detection",
        "contrastive": "segjax.tasks.contrastive.task:Contrastive",
    },
)
SOURCES = Registry(
    "data source",
    "segjax.sources",
    {
        "bsds500": "segjax.data.sources.bsds500:Bsds500",
        "cityscapes": "segjax.data.sources.cityscapes:Cityscapes",
        "coco": "segjax.data.sources.coco:CocoFolder",
        "images": "segjax.data.sources.images:ImageFolders",
        "label_maps": "segjax.data.sources.label_maps:LabelMaps",
        "lvis": "segjax.data.sources.lvis:LvisFolder",
        "nuclei": "segjax.data.sources.label_maps:open_nuclei",
        "sa1b": "segjax.data.sources.sa1b:Sa1b",
        "synthetic": "segjax.data.sources.scenes:SyntheticSource",
    },
)
# segjax's own experiments are files in experiments/; a package adds its by name.
EXPERIMENTS = Registry("experiment", "segjax.experiments", {})


def register_family(name: str, family: Any, *, replace: bool = False) -> None:
    """Registers a `segjax.models.family.Family`: `load` and the commands then know its models.

    Args:
      name: of the family, such as "sam".
      family: the record, or a reference "package.module:name" to one.
      replace: allow a name that is taken.
    """
    FAMILIES.register(name, family, replace=replace)


def register_task(name: str, task: Callable[..., Any] | str, *, replace: bool = False) -> None:
    """Registers a `segjax.training.task.Task` class, which `config.task = name` then chooses.

    Args:
      name: value of `config.task`.
      task: the class, called with a config, or a reference "package.module:name" to it.
      replace: allow a name that is taken.
    """
    TASKS.register(name, task, replace=replace)


def register_source(name: str, reader: Callable[..., Any] | str, *, replace: bool = False) -> None:
    """Registers a reader of raw data, which `segjax prepare name RAW_DIR --out DIR` then uses.

    Args:
      name: of the source, such as "coco".
      reader: called as reader(raw_dir, **options), returns a `segjax.data.sources.raw.RawSource`;
        or a reference "package.module:name" to it.
      replace: allow a name that is taken.
    """
    SOURCES.register(name, reader, replace=replace)


def register_experiment(
    name: str, get_config: Callable[..., Any] | str, *, replace: bool = False
) -> None:
    """Registers an experiment, which `segjax train --config=name[:variant]` then trains.

    Args:
      name: of the experiment; a file of that name comes first.
      get_config: called as get_config() or get_config(variant), returns a ConfigDict; or a
        reference "package.module:name" to it.
      replace: allow a name that is taken.
    """
    EXPERIMENTS.register(name, get_config, replace=replace)
