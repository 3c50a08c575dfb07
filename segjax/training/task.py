"""What the loop asks of a task. A new paper is a new task; the loop and the step stay as they are."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

Variables = Mapping[str, Any]  # {"params": trained, "constants": fixed}, nested dicts of arrays
Batch = dict[
    str, np.ndarray
]  # leading axis B; `index` int64 [B], where given, names the examples in errors


class Task(Protocol):
    """Binds a model, a loss, batches and an evaluation."""

    def completed(self, settings: Mapping[str, Any]) -> ml_collections.ConfigDict:
        """A config, perhaps saved by an older version, with the defaults of the settings that it leaves out."""

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables. Pure: traced for shapes first, then compiled with shardings."""

    def pretrained(self, kind: str, path: str, expected: Variables) -> Variables:
        """Some of the variables, from a checkpoint of another kind of model: config.init_from = "kind:path".

        Called for such settings alone. expected: all of the variables, as shapes. Raises ValueError for a kind that the
        task knows no way from, CheckpointError for what cannot be read or does not fit.
        """

    def measured_constants(self, variables: Variables, *, mesh: jax.sharding.Mesh) -> Variables:
        """Some of the constants, which depend on the other variables and on training pictures.

        Called once, before the first step, unless a checkpoint of the same model has them. A task whose constants are
        all fixed leaves this method out.
        """

    def classes(self) -> Mapping[str, Sequence]:
        """What a checkpoint says of the model's classes, JSON: "categories" (names), "category_ids" (the data set's
        numbers), "keypoint_names", ... A task whose model has none leaves this method out.
        """

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """(sum of losses, weight, sums of metrics), float32 scalars; the step divides once by the weight."""

    def operations(self) -> tuple[float, str]:
        """(of the model for one image in training, forward and backward, 0 if nobody has counted them; their dtype)."""

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """What a batch of "train" holds on the devices; no data is read. For compiling ahead of the run."""

    def batches(
        self,
        split: str,
        *,
        batch_size: int,
        start: int,
        process_index: int,
        process_count: int,
        seed: int,
        workdir: pathlib.Path | None,
    ) -> Iterator[Batch]:
        """This process's rows of each global batch, `start` examples (counted globally) into the stream.

        workdir: the run's folder, for what there is to say about examples that cannot be read. Batches have one shape;
        a task where they have more says how many in an attribute `programs`.
        """

    def evaluate(
        self, variables: Variables, *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Numbers, and uint8 [H, W, 3] pictures, for the log."""
