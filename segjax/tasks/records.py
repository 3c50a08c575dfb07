"""What every task says of the records that it reads, and of the variants of its experiments."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from segjax.data.loader import make_loader
from segjax.data.splits import First, open_split


def record_settings() -> dict[str, Any]:
    """Defaults of `config.data` that do not depend on what is made of the records."""
    return dict(
        source="synthetic",  # or a folder that `segjax prepare` wrote, or "tfds:NAME"
        tfds_dir="",  # where TFDS has prepared its data sets; "": ~/tensorflow_datasets or $TFDS_DATA_DIR
        train_split="train",
        eval_split="val",
        scenes=dict(train_count=2000, eval_count=64, size=128, difficulty="easy", seed=0, kind="shapes"),
        percentiles=(),  # (low, high): stretch each picture's intensities, for microscopes
        workers=0,
        threads=1,
        cache_mb=0.0,
        max_broken=0.01,  # a run stops when a larger share of its examples cannot be read
    )


def records_of(data: Mapping[str, Any], split: str, *, limit: int) -> Sequence:
    """The records of "train", or of "eval": the first `limit` of these, or with 0 all."""
    source = open_split(data, split)
    if split == "train":
        open_split(data, "eval")  # what cannot be measured on should be an error now, not after the training
        return source
    return First(source, limit) if limit else source


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
    options |= dict(max_broken=data["max_broken"], broken_folder=workdir and workdir / "broken", order=order)
    return make_loader(source, example, **place, **options)


def batch_shapes(example: Callable, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of examples holds on the devices, as shapes. example: of the task's batches, see `make_loader`."""
    rows = {name: np.asarray(row) for name, row in example.placeholder().items()}
    return {name: jax.ShapeDtypeStruct((batch_size, *row.shape), row.dtype) for name, row in rows.items()}


def measured_batches(batches: Callable, batch_size: int, mesh: jax.sharding.Mesh) -> Iterator[dict[str, np.ndarray]]:
    """This process's batches of the evaluation split: at least `batch_size` examples, as many for each device.

    Args:
      batches: of the task.
    """
    place = dict(process_index=jax.process_index(), process_count=jax.process_count())
    return batches("eval", batch_size=-(-batch_size // mesh.size) * mesh.size, **place)


def variant_of(
    config: ml_collections.ConfigDict, variant: str, known: tuple[str, ...], miniature: Callable
) -> ml_collections.ConfigDict:
    """The config itself, or for "debug" what `miniature` makes of it: two steps on synthetic scenes, seconds on a CPU.

    Raises:
      ValueError: a variant that is neither "", "debug" nor one of `known`, which the experiment has applied itself.
    """
    if variant not in ("", "debug", *known):
        raise ValueError(f"the experiment has no variant {variant!r}; it has {'; '.join(('debug', *known))}")
    return miniature(config) if variant == "debug" else config
