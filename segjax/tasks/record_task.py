"""Base class of the tasks that make their examples from prepared records.

You can skip this to understand a paper: the losses are in the tasks' own folders.
"""

import contextlib
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import viz
from segjax.data.loader import make_loader
from segjax.data.mixture import MixedRecords, MixtureOrder
from segjax.data.splits import FirstRecords, describe_split, open_split
from segjax.files import write_atomic, write_json
from segjax.images.encoding import encode_png
from segjax.inference.loading import read_model
from segjax.models.build import find_family, init_model, variable_shapes
from segjax.models.sizes import get_model_options
from segjax.tasks.usable_objects import CheckedBatches
from segjax.training.defaults import as_config, fill_defaults
from segjax.training.task import Task
from segjax.weights.tree import CheckpointError, check_variables, describe_differences

logger = logging.getLogger(__name__)


class RecordTask(Task):
    """Task that reads records and has a model by name.

    A subclass adds its settings, its examples, its loss and its evaluation.

    Attributes:
      settings: dataclass of the task's settings. Of the model it holds the name alone.
      build: builds a model of the task's family by name, see `segjax.models.family.Family.build`.
      build_example: called with train=True or False, returns a function from a record to an example
        (see `segjax.data.loader.make_loader`).
      no_object: end of the error message for training data without an object to learn, see
        `CheckedBatches`. "": the task learns images without objects.
    """

    no_object = ""
    build: Callable[..., nn.Module]
    build_example: Callable[..., Callable]

    def __init__(self, config: ml_collections.ConfigDict):
        options = config.model.to_dict()
        self.model_name = options.pop("name")
        self.model = self.build(self.model_name, **options)
        self.encoder_path = find_family(self.model_name).encoder_path
        self.data = config.data.to_dict()
        self.eval = config.eval.to_dict()

    @classmethod
    def complete_config(
        cls, settings: Mapping[str, Any] | ml_collections.ConfigDict
    ) -> ml_collections.ConfigDict:
        """Returns a config with the task's defaults for all settings that are missing.

        It states every option of the model, of which `settings` has the name alone.

        Args:
          settings: a config, perhaps of an older version.

        Raises:
          ValueError: unknown model, or a setting of another type than its default.
        """
        defaults = as_config(cls.settings())
        name = settings.get("model", {}).get("name", defaults.model.name)
        defaults.model = ml_collections.ConfigDict({"name": name, **cls.model_options(name)})
        return fill_defaults(settings, defaults)

    @classmethod
    def model_options(cls, name: str) -> dict[str, Any]:
        """Returns all options of a model of this name, as `config.model` holds them.

        The default is right for models whose options are the attributes of their module.

        Raises:
          ValueError: unknown name.
        """
        return get_model_options(cls.build(name))

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draws fresh variables."""
        return init_model(self.model, key)

    def load_own(self, path: str, expected: Mapping[str, Any], *, source: str) -> Mapping[str, Any]:
        """Loads all variables as `Task.load_own`, and resizes position tables to the canvas.

        The log says so if the checkpoint's canvas is another one.
        """
        try:
            return super().load_own(path, expected, source=source)
        except CheckpointError:
            variables = None
            with contextlib.suppress(ValueError, OSError):
                stored, variables, *_ = read_model(path)
                if type(stored) is type(self.model) and hasattr(stored, "canvas"):
                    family = find_family(self.model_name)
                    variables = family.fit_canvas(variables, stored, self.model)
            # Only a model that differs in nothing else
            if variables is None or describe_differences(expected, variables):
                raise
        logger.info(
            "position tables of %s are resized from a canvas of %s to %s pixels",
            *(source, stored.canvas, self.model.canvas),
        )
        return variables

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a training batch on the devices. Reads no data."""
        placeholder = self.build_example(train=True).placeholder()
        rows = {name: np.asarray(row) for name, row in placeholder.items()}
        return {
            name: jax.ShapeDtypeStruct((batch_size, *row.shape), row.dtype)
            for name, row in rows.items()
        }

    def batches(
        self,
        split: str,
        *,
        batch_size: int,
        start: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        seed: int = 0,
        workdir: pathlib.Path | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Opens a split; see `segjax.training.task.Task.batches`.

        Raises:
          ValueError: as `open_source`.
        """
        return make_batches(
            self.open_source(split),
            self.build_split_example(split),
            self.data,
            train=split == "train",
            batch_size=batch_size,
            start=start,
            process_index=process_index,
            process_count=process_count,
            seed=seed,
            workdir=workdir,
            no_object=self.no_object,
        )

    def describe_model(self) -> str:
        """Returns the model's name and canvas, for the first lines of a run."""
        canvas = getattr(self.model, "canvas", None)
        shape = canvas if isinstance(canvas, tuple) else (canvas, canvas)
        where = f" on {shape[0]} x {shape[1]} pixels" if canvas else ""
        return f"{self.model_name}{where}, {jnp.dtype(self.model.dtype).name}"

    def describe_data(self) -> list[str]:
        """Returns the number of images and objects of both splits."""
        return [describe_split(self.data, role) for role in ("train", "eval")]

    def draw_batch(
        self, batch: Mapping[str, np.ndarray], *, count: int = 9, title: str = ""
    ) -> np.ndarray | None:
        """Draws the first examples of a batch with their objects.

        Args:
          batch: with "image" uint8 [B, H, W, 3], and objects that `viz.objects_of_example` knows.
          count: largest number of examples.
          title: above the sheet.

        Returns:
          uint8 [H, W, 3], or None for examples without images.
        """
        if "image" not in batch:
            return None
        count = min(count, len(batch["image"]))
        examples = [{name: rows[row] for name, rows in batch.items()} for row in range(count)]
        objects = [viz.objects_of_example(example) for example in examples]
        names = self.describe_classes().get("categories", ())
        captions = [
            f"{len(each['boxes'])} objects" if "boxes" in example else ""
            for each, example in zip(objects, examples, strict=True)
        ]
        images = [np.asarray(example["image"]).astype(np.uint8) for example in examples]
        return viz.draw_annotation_sheet(images, objects, captions, names, title=title)

    def open_source(self, split: str) -> Sequence:
        """Opens the records of "train" or "eval". Tasks override it to choose or check them."""
        return open_records(self.data, split, limit=self.eval["limit"])

    def build_split_example(self, split: str) -> Callable:
        """Returns the function from a split's record to an example.

        A task overrides it if its examples depend on the dataset.
        """
        return self.build_example(train=split == "train")

    def evaluation_batches(
        self, variables: Mapping[str, Any], mesh: jax.sharding.Mesh
    ) -> Iterator[dict[str, np.ndarray]]:
        """Opens this process's batches of the evaluation split.

        Args:
          variables: to be evaluated.
          mesh: whose devices share the batches.

        Raises:
          CheckpointError: variables of another model than the config's. flax would ignore
            unexpected arrays.
        """
        check_variables(variable_shapes(self.model), variables, source="what is to be measured")
        return open_evaluation_batches(self.batches, self.eval["batch_size"], mesh)

    def write_evaluation(
        self,
        measured: Mapping[str, Mapping[str, Any]],
        out: pathlib.Path | None,
        *,
        title: str,
        mesh: jax.sharding.Mesh,
    ) -> str:
        """Evaluates variables, writes evaluation.json and the images, and returns a table.

        Args:
          measured: variables by name, "trained" and perhaps "untrained".
          out: folder for the files, None to write none.
          title: name of the checkpoint, the heading of a single column.
          mesh: to evaluate on.
        """
        results = {
            name: self.evaluate(variables, mesh=mesh) for name, variables in measured.items()
        }
        metrics = {name: values for name, (values, _) in results.items()}
        headings = [name if len(metrics) > 1 else title for name in metrics]
        lines = [f"{'':<12}" + "".join(f"{heading:>12}" for heading in headings)]
        for key in metrics["trained"]:
            lines.append(
                f"{key:<12}" + "".join(f"{values[key]:>12.4f}" for values in metrics.values())
            )
        # Files
        if out is not None:
            write_json(out / "evaluation.json", metrics)
            for name, image in results["trained"][1].items():
                write_atomic(out / f"{name}.png", encode_png(image))
            lines.append(str(out / "evaluation.json"))
        return "\n".join(lines)


def open_records(data: Mapping[str, Any], split: str, *, limit: int) -> Sequence:
    """Opens the records of a split.

    Args:
      data: config.data.
      split: "train" or "eval".
      limit: number of records of "eval" that are used, of each source of a mixture. 0 for all.
    """
    source = open_split(data, split)
    if split == "train":
        # A missing evaluation split should be an error now, not after the training.
        open_split(data, "eval")
        return source
    if limit and isinstance(source, MixedRecords):
        return MixedRecords([FirstRecords(part, limit) for part in source.parts], source.entries)
    return FirstRecords(source, limit) if limit else source


def make_batches(
    source: Sequence,
    example: Callable,
    data: Mapping[str, Any],
    *,
    train: bool,
    workdir: pathlib.Path | None = None,
    order: Sequence[int] | None = None,
    no_object: str = "",
    **position: int,
) -> Iterator:
    """Makes batches of examples from records.

    In training they are endless and shuffled, with the workers and the cache of `config.data`.

    Args:
      source: records.
      example: from a record to an example.
      data: config.data.
      train: True for training batches.
      workdir: the run's folder. Its folder `broken` lists the records that cannot be read.
      order: indices of records in the order of training, see `make_loader`.
      no_object: see `RecordTask`.
      position: batch_size, start, seed, process_index and process_count, see `make_loader`.
    """
    if train and isinstance(source, MixedRecords):
        order = _make_mixture_order(source, order, position.get("seed", 0))
    workers, cache_mb = (data["workers"], data["cache_mb"]) if train else (0, 0)
    batches = make_loader(
        source,
        example,
        train=train,
        workers=workers,
        threads=data["threads"],
        cache_mb=cache_mb,
        max_broken=data["max_broken"],
        broken_folder=workdir and workdir / "broken",
        order=order,
        **position,
    )
    return CheckedBatches(batches, len(source), no_object) if train and no_object else batches


def _make_mixture_order(
    source: MixedRecords, order: Sequence[int] | None, seed: int
) -> MixtureOrder:
    """Returns the training order of a mixture. Raises ValueError if another order is asked for."""
    if order is not None:
        raise ValueError(
            "config.data.source is a mixture, whose images cannot be grouped by orientation; set "
            "config.data.by_orientation=False"
        )
    return MixtureOrder(source.sizes, [entry.weight for entry in source.entries], seed)


def open_evaluation_batches(
    batches: Callable, batch_size: int, mesh: jax.sharding.Mesh
) -> Iterator[dict[str, np.ndarray]]:
    """Opens this process's batches of the evaluation split, with equally many rows per device.

    Args:
      batches: a task's `batches`.
      batch_size: smallest number of examples in a batch. It is rounded up to a multiple of the
        devices.
      mesh: whose devices share the batches.
    """
    rounded = -(-batch_size // mesh.size) * mesh.size
    return batches(
        "eval",
        batch_size=rounded,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
