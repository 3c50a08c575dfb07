"""What tasks have in common that make their examples of records: a model by name, settings, batches."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from segjax.data.loader import make_loader
from segjax.data.splits import FirstRecords, open_split
from segjax.models.build import init_model, variable_shapes
from segjax.models.sizes import attributes
from segjax.training.defaults import with_defaults
from segjax.training.task import Task
from segjax.weights.tree import check_variables


class RecordTask(Task):
    """A task says which settings and models it has, what an example is, its loss and how it is measured."""

    defaults: Callable[
        [], ml_collections.ConfigDict
    ]  # its settings; of the model's, the name is enough
    build: Callable[..., nn.Module]  # a model of its kind by name, see `models.build.Kind`
    example: Callable[..., Callable]  # with `train`: what is made of a record, see `make_loader`

    def __init__(self, config: ml_collections.ConfigDict):
        options = config.model.to_dict()
        self.model = self.build(options.pop("name"), **options)
        self.data = config.data.to_dict()
        self.eval = config.eval.to_dict()

    @classmethod
    def complete_config(
        cls, settings: Mapping[str, Any] | ml_collections.ConfigDict
    ) -> ml_collections.ConfigDict:
        """A new config with every setting: those given, perhaps by an older version, and the defaults of the others.

        The model's attributes are spelt out, which `defaults` leaves to its name.

        Raises:
          ValueError: unknown model, or a setting of another type than its default.
        """
        defaults = cls.defaults()
        name = settings.get("model", {}).get("name", defaults.model.name)
        defaults.model = ml_collections.ConfigDict({"name": name, **attributes(cls.build(name))})
        return with_defaults(settings, defaults)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh variables."""
        return init_model(self.model, key)

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch; reads no data."""
        return batch_shapes(self.example(train=True), batch_size)

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
        """Batches of examples: "train" endless, shuffled and drawn at random, "eval" once. Raises what `source` does.

        Args:
          workdir: the run's folder, see `load`.
        """
        train = split == "train"
        place = dict(process_index=process_index, process_count=process_count, workdir=workdir)
        place |= dict(batch_size=batch_size, start=start, seed=seed)
        return load(self.source(split), self.maker(split), self.data, train=train, **place)

    def source(self, split: str) -> Sequence:
        """The records of "train" or "eval". A task that wants others, or not any, says so here."""
        return records_of(self.data, split, limit=self.eval["limit"])

    def maker(self, split: str) -> Callable:
        """What makes examples of a split's records: `example`, and what must be known of the data besides."""
        return self.example(train=split == "train")

    def measured_batches(
        self, variables: Mapping[str, Any], mesh: jax.sharding.Mesh
    ) -> Iterator[dict[str, np.ndarray]]:
        """This process's batches to measure variables on, see `records.measured_batches`.

        Raises CheckpointError for variables of another model than the config's: flax would ignore a surplus of them.
        """
        check_variables(variable_shapes(self.model), variables, source="what is to be measured")
        return measured_batches(self.batches, self.eval["batch_size"], mesh)


def records_of(data: Mapping[str, Any], split: str, *, limit: int) -> Sequence:
    """The records of "train", or of "eval": the first `limit` of these, or with 0 all."""
    source = open_split(data, split)
    if split == "train":
        open_split(
            data, "eval"
        )  # what cannot be measured on should be an error now, not after the training
        return source
    return FirstRecords(source, limit) if limit else source


def load(
    source: Sequence,
    example: Callable,
    data: Mapping[str, Any],
    *,
    train: bool,
    workdir: pathlib.Path | None = None,
    order: Sequence[int] | None = None,
    **place: int,
) -> Iterator:
    """Batches of examples: in training endless, shuffled and by the workers and cache that `config.data` asks for.

    Args:
      workdir: the run's folder; records that cannot be read are named in files of its folder `broken`.
      order: to train in, as of `make_loader`.
      place: batch_size, start, seed, process_index and process_count, as of `make_loader`.
    """
    workers, cache_mb = (data["workers"], data["cache_mb"]) if train else (0, 0)
    options = dict(train=train, workers=workers, threads=data["threads"], cache_mb=cache_mb)
    options |= dict(
        max_broken=data["max_broken"], broken_folder=workdir and workdir / "broken", order=order
    )
    return make_loader(source, example, **place, **options)


def batch_shapes(example: Callable, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of examples holds on the devices, as shapes. example: of the task's batches, see `make_loader`."""
    rows = {name: np.asarray(row) for name, row in example.placeholder().items()}
    return {
        name: jax.ShapeDtypeStruct((batch_size, *row.shape), row.dtype)
        for name, row in rows.items()
    }


def measured_batches(
    batches: Callable, batch_size: int, mesh: jax.sharding.Mesh
) -> Iterator[dict[str, np.ndarray]]:
    """This process's batches of the evaluation split: at least `batch_size` examples, as many for each device.

    Args:
      batches: of the task.
    """
    place = dict(process_index=jax.process_index(), process_count=jax.process_count())
    return batches("eval", batch_size=-(-batch_size // mesh.size) * mesh.size, **place)
