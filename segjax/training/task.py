"""Interface between the training loop and a task. A new paper is a new task and no new loop."""

import abc
import dataclasses
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import ml_collections
import numpy as np

from segjax.files import write_json
from segjax.training.defaults import LoopSettings
from segjax.weights.checkpoint import read_checkpoint

Variables = Mapping[str, Any]  # {"params": trained, "constants": fixed}, nested dicts of arrays
# Leading axis B. `index` int64 [B], where present, identifies the examples in error messages.
Batch = dict[str, np.ndarray]


class BatchIterator(Iterator[Batch], Protocol):
    """Iterator of batches whose workers end at `close`. A generator is one."""

    def close(self) -> None:
        """Ends the iteration. Closing twice does nothing."""


class Task(Protocol):
    """A model, a loss, batches and an evaluation, bound together for the training loop.

    Derive from this class and write `complete_config`, `init`, `loss`, `batches` and `evaluate`.
    The other methods have defaults. The loop calls `loss` in `segjax.training.step.train_step`.

        class Regression(Task):
            def init(self, key):
                return {"params": {"slope": jnp.zeros(3)}, "constants": {}}

            def loss(self, variables, batch, key, train):
                error = (batch["x"] @ variables["params"]["slope"] - batch["y"]) ** 2
                return error.sum(), jnp.float32(len(error)), {}

    Attributes:
      settings: Dataclass of the task's settings, usually derived from `LoopSettings`. Its
        docstrings are the comments that `segjax config` prints.
      encoder_path: Path of the encoder among the parameters, such as "image_encoder", for the
        presets of `config.trainable`. "": none.
      shown_metrics: Names of the metrics of training and evaluation that the terminal shows. Empty:
        the first few of each row. metrics.jsonl and TensorBoard have all of them.
    """

    settings: ClassVar[type] = LoopSettings
    encoder_path: str = ""
    shown_metrics: ClassVar[Sequence[str]] = ()

    @abc.abstractmethod
    def complete_config(self, settings: Mapping[str, Any]) -> ml_collections.ConfigDict:
        """Returns a config with the defaults of the settings that are missing.

        Args:
          settings: A config, perhaps saved by an older version.
        """

    @staticmethod
    def miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        """Shrinks an experiment for its variant "debug", in place, and returns it.

        Optional: the default shortens the run to two steps.
        """
        config.update(total_steps=2, log_every=1, eval_every=0)
        return config

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Variables:
        """Returns fresh variables. Pure: traced for shapes first, then compiled with shardings."""

    def load_own(self, path: str, expected: Variables, *, source: str) -> Variables:
        """Loads all variables from a checkpoint of the task's own model, for `config.init_from`.

        Args:
          path: Run or file of weights.
          expected: All of the task's variables, as shapes.
          source: Name of the checkpoint for messages.

        Raises:
          CheckpointError: The checkpoint cannot be read or does not fit.
        """
        return dataclasses.replace(read_checkpoint(path), source=source).variables(expected)

    def load_pretrained(self, kind: str, path: str, expected: Variables) -> Variables:
        """Loads some of the variables from another kind of model.

        Called if `config.init_from` is "kind:path". Optional: the default knows no other kind.

        Args:
          kind: Kind of model, for example "mae".
          path: Its checkpoint.
          expected: All of the task's variables, as shapes.

        Raises:
          ValueError: The task cannot start from this kind.
          CheckpointError: The checkpoint cannot be read or does not fit.
        """
        raise ValueError(
            f"{type(self).__name__} starts from its own checkpoints only; got '{kind}:{path}'"
        )

    def prepare_training(
        self, variables: Variables, *, trained: Collection[str], workdir: pathlib.Path
    ) -> None:
        """Called once before the first batch of a run, for work that needs the variables.

        Optional: by default there is none.

        Args:
          variables: {"params", "constants"} that the run starts or resumes from.
          trained: Paths of the parameters that the run changes.
          workdir: Folder of the run.
        """

    def measure_constants(self, variables: Variables, *, mesh: jax.sharding.Mesh) -> Variables:
        """Returns the constants that depend on the other variables and on training images.

        Called once, before the first step, unless a checkpoint of the same model holds them.
        Optional: by default all constants are fixed.
        """
        return {}

    def describe_classes(self) -> Mapping[str, Sequence]:
        """Returns the metadata about classes that checkpoints hold, as JSON.

        Keys are "categories" (names), "category_ids" (ids in the dataset), "keypoint_names" and so
        on. Optional: by default the model has no classes and checkpoints hold no such metadata.
        """
        return {}

    def describe_model(self) -> str:
        """Returns the name of the model for the first lines of a run. Optional."""
        return type(self).__name__

    def describe_data(self) -> Sequence[str]:
        """Returns one line for each split, for the first lines of a run. Optional: none."""
        return ()

    def draw_batch(self, batch: Batch) -> np.ndarray | None:
        """Draws a training batch as the model receives it, for people who check their data.

        Args:
          batch: Rows of this process.

        Returns:
          uint8 [H, W, 3]. Optional: the default, None, draws nothing.
        """
        return None

    @abc.abstractmethod
    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Computes the loss of a batch as a sum and a weight.

        The step divides once by the weight, so that microbatches and devices do not change the
        result.

        Args:
          variables: {"params", "constants"}.
          batch: A batch on the devices, without `index`.
          key: Typed PRNG key of this step or microbatch.
          train: True in training. False disables drop path and the like.

        Returns:
          (sum of losses, weight, sums of metrics), float32 scalars.
        """

    def flops(self) -> tuple[float, str]:
        """Returns the floating-point operations of the model for one image, and their dtype.

        Forward and backward pass. Optional: the default, 0, means that nobody has counted them.
        """
        return 0.0, "float32"

    @property
    def batch_shape_count(self) -> int:
        """Number of different batch shapes in training. The step compiles once for each."""
        return 1

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a training batch on the devices. Reads no data.

        Optional: only tools that compile the step ahead of a run call it.

        Raises:
          NotImplementedError: The task does not know its shapes.
        """
        raise NotImplementedError(f"{type(self).__name__}.batch_shapes is not written")

    @abc.abstractmethod
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
    ) -> BatchIterator:
        """Opens a split and returns this process's rows of each global batch.

        Args:
          split: "train" (endless, shuffled) or "eval" (once, in order).
          batch_size: Images in a global batch.
          start: Examples consumed so far by all processes together.
          process_index: Index of this process.
          process_count: Number of processes.
          seed: Seed of the order and of augmentation.
          workdir: Folder of the run. Unreadable examples are reported there.
        """

    @abc.abstractmethod
    def evaluate(
        self, variables: Variables, *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Evaluates the variables on the evaluation split.

        Returns:
          Metrics by name, and uint8 [H, W, 3] images by name, for the log.
        """

    @classmethod
    def prepare_evaluation(
        cls, config: ml_collections.ConfigDict, model: Any, saved: Mapping[str, Any]
    ) -> None:
        """Adapts a config in place before `segjax eval` makes a task of it.

        Optional: the default does nothing.

        Args:
          config: Complete config, pointed at the data to evaluate on.
          model: The model that was loaded.
          saved: Metadata of its checkpoint.
        """

    def write_evaluation(
        self,
        measured: Mapping[str, Variables],
        out: pathlib.Path | None,
        *,
        title: str,
        mesh: jax.sharding.Mesh,
    ) -> str:
        """Evaluates variables for `segjax eval` and writes the files of the report.

        Optional: the default writes evaluation.json with the metrics of `evaluate`.

        Args:
          measured: Variables by name: "trained", and perhaps "untrained".
          out: Folder for the files. None: nothing is written.
          title: Name of the checkpoint, for the heading of a single column.
          mesh: Mesh to evaluate on.

        Returns:
          A table as text.
        """
        metrics = {
            name: self.evaluate(variables, mesh=mesh)[0] for name, variables in measured.items()
        }
        names = [name if len(metrics) > 1 else title for name in metrics]
        lines = [f"{'':<12}" + "".join(f"{name:>12}" for name in names)]
        for key in next(iter(metrics.values())):
            lines.append(f"{key:<12}" + "".join(f"{row[key]:>12.4f}" for row in metrics.values()))
        if out is not None:
            write_json(out / "evaluation.json", metrics)
            lines.append(str(out / "evaluation.json"))
        return "\n".join(lines)
