"""The training loop, for every task."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time

import jax
import ml_collections

from segjax.locks import FolderLock
from segjax.training import sharding
from segjax.training.checkpoints import Checkpoints
from segjax.training.defaults import check_config
from segjax.training.interruption import Interrupted, Interruption
from segjax.training.memory import explain_out_of_memory
from segjax.training.monitor import Monitor
from segjax.training.program import Program, make_program, restore_or_initialize
from segjax.training.reporting.banner import describe_start, make_banner
from segjax.training.reporting.metrics import MetricWriter
from segjax.training.state import TrainState
from segjax.training.task import Batch, BatchIterator, Task, Variables
from segjax.training.throughput import peak_tflops
from segjax.training.workdir import lock_workdir, open_workdir, record_config, to_plain_dict

logger = logging.getLogger(__name__)


def train(
    task: Task,
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    *,
    variables: Variables | None = None,
) -> TrainState:
    """Trains to `config.total_steps` and returns the state.

    Resumes if workdir holds a checkpoint. Parameters come from the run's own newest checkpoint,
    else from `variables` or `config.init_from`, else from `task.init`. The math of one step is in
    `segjax.training.step.train_step`.

    Args:
      task: Gives the variables, the loss, the batches and the evaluation.
      config: `segjax.training.defaults.base_config` plus the fields of the task.
      workdir: Folder that receives config.json, metrics.jsonl, tb/, pictures/ and checkpoints/. It
        must be the same folder for all processes.
      variables: {"params", "constants"} to start from. None: `config.init_from` decides.

    Returns:
      The state after the last step.

    Raises:
      ValueError: The config or the workdir does not fit.
      CheckpointError: No checkpoint can be read, or it holds another model.
      NonFiniteError: Loss or gradients are not finite. The state before that step is saved.
      Interrupted: A SystemExit, after SIGTERM or SIGINT. The state is saved.
      FolderInUseError: Another run is writing to the workdir.
      FolderLostError: The workdir was deleted or taken over in the middle of the run.
    """
    check_config(config)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    sharding.check_batch_size(config.batch_size, config.microbatches, mesh)
    workdir = open_workdir(workdir)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(lock_workdir(workdir))
        stack.enter_context(jax.set_mesh(mesh))
        interruption = stack.enter_context(Interruption())
        run, state, done = _start(task, config, workdir, lock, mesh, variables, stack)
        batches = stack.enter_context(contextlib.closing(run.open_batches(done)))
        monitor = stack.enter_context(contextlib.closing(run.make_monitor()))
        stack.enter_context(jax.transfer_guard("disallow"))
        complete_config = functools.partial(task.complete_config, config)
        if done < config.total_steps:
            logger.info("compiling the training step, which takes seconds to minutes ...")
        # Nothing in here waits for the devices, except `finish_step` where it says so.
        while done < config.total_steps:
            # Load a batch
            with monitor.loading():
                batch = next(batches)
                placed = sharding.place_batch(batch, mesh)
            # Gradient and update
            with explain_out_of_memory(run.program, complete_config, placed, done):
                with monitor.stepping(done):
                    state, metrics = run.program.step(state, placed)
                if done == 0:
                    run.draw_first_batch(batch)  # the devices compute meanwhile
                done += 1
                monitor.add(done, batch.get("index"), metrics)
            # Log, save, evaluate or stop, where it is due
            run.writer.advance(done)
            run.finish_step(state, done, monitor, interruption)
        run.checkpoints.wait()
        run.check_workdir()
    return state


@dataclasses.dataclass
class Run:
    """Everything about a run that stays the same from step to step.

    Attributes:
      task: The task.
      config: Config of the run.
      workdir: Absolute path of the run's folder.
      lock: Lock of the folder, None in processes other than 0.
      program: The compiled step and the layout of the state.
      checkpoints: Checkpoints of the run.
      writer: Log of the run.
    """

    task: Task
    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    lock: FolderLock | None
    program: Program
    checkpoints: Checkpoints
    writer: MetricWriter

    def open_batches(self, done: int) -> BatchIterator:
        """Opens the training batches of this process, after `done` steps."""
        return self.task.batches(
            "train",
            batch_size=self.config.batch_size,
            start=done * self.config.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            seed=self.config.seed,
            workdir=self.workdir,
        )

    def make_monitor(self) -> Monitor:
        """Returns a monitor of the steps, with the throughput that the devices could reach."""
        config = self.config
        flops, dtype = self.task.flops()
        return Monitor(
            self.program.step,
            config.batch_size,
            config.profile_steps,
            self.workdir / "profile",
            flops=flops,
            peak_tflops=config.peak_tflops or peak_tflops(jax.devices()[0], dtype),
            expected_compilations=self.task.batch_shape_count,
        )

    def draw_first_batch(self, batch: Batch) -> None:
        """Writes pictures/train_0.png, in which wrong data can be seen before the training."""
        if jax.process_index() == 0 and (drawn := self.task.draw_batch(batch)) is not None:
            self.writer.first_batch(drawn)

    def finish_step(
        self, state: TrainState, done: int, monitor: Monitor, interruption: Interruption
    ) -> None:
        """Logs, saves and evaluates after a step, where the config asks for it.

        Args:
          state: State after the step.
          done: Number of steps done.
          monitor: Holds the metrics of the steps since the last row of the log.
          interruption: Tells whether to save and stop.

        Raises:
          NonFiniteError: A loss or gradient was not finite. The state is saved.
          Interrupted: The run was told to stop. The state is saved.
          FolderLostError: The workdir was deleted, or taken over by another run.
        """
        config = self.config
        last, stop = done == config.total_steps, interruption.requested(done)
        evaluates = last or (not stop and config.eval_every and done % config.eval_every == 0)
        saves = last or stop or (config.checkpoint.every and done % config.checkpoint.every == 0)
        logs = last or done % config.log_every == 0
        if evaluates or saves or logs:
            self.check_workdir()
            # Waits for the devices; raises if a step was not finite
            monitor.check(functools.partial(self.save, state))
        if logs:
            self.writer.scalars(done, monitor.row())
        if saves and (stop or not (evaluates and config.checkpoint.best)):
            # Before the evaluation, which may take long and be cut short by a kill
            self.save(state)
        if evaluates:
            metrics = self.evaluate(state, done)
            if config.checkpoint.best:
                self.save(state, metrics)
        if evaluates or saves:
            monitor.restart_clock()
        if stop and not last:
            self.checkpoints.wait()
            raise Interrupted(done, interruption.signum)

    def check_workdir(self) -> None:
        """Raises FolderLostError if the workdir was deleted, or taken over by another run."""
        if self.lock is not None:
            self.lock.check()

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Starts to save the state, with the config and the metrics of its evaluation."""
        done = int(jax.device_get(state.step))
        meta = {"config": to_plain_dict(self.config), "examples": done * self.config.batch_size}
        if classes := self.task.describe_classes():
            meta["classes"] = classes
        with jax.transfer_guard("allow"):
            self.checkpoints.save(state, meta, metrics)

    def evaluate(self, state: TrainState, done: int) -> dict[str, float]:
        """Evaluates the state, and logs metrics and images as those of step `done`.

        Uses the exponential moving average of the parameters if there is one. Saves the state
        before it raises, so that a failing evaluation loses no training.

        Raises:
          ValueError: `config.checkpoint.best` is not one of the metrics.
        """
        # Evaluation moves arrays between host and devices, which steps must not
        began = time.perf_counter()
        try:
            with jax.transfer_guard("allow"):
                metrics, images = self.task.evaluate(
                    self.program.join(state.best_variables), mesh=self.program.mesh
                )
            best = self.config.checkpoint.best
            if best and best not in metrics:
                raise ValueError(
                    f"checkpoint.best is {best!r}; the evaluation has {', '.join(sorted(metrics))}"
                )
        except Exception:
            self.save(state)
            raise
        metrics = {name: float(value) for name, value in metrics.items()}
        seconds = {"eval_seconds": time.perf_counter() - began}
        self.writer.scalars(done, metrics | seconds, group="eval")
        self.writer.images(done, images)
        return metrics


def _start(
    task: Task,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    lock: FolderLock | None,
    mesh: jax.sharding.Mesh,
    variables: Variables | None,
    stack: contextlib.ExitStack,
) -> tuple[Run, TrainState, int]:
    """Opens a run and returns it with its first state and the number of steps that are done."""
    options = {name: config.checkpoint[name] for name in ("keep", "best", "best_mode")}
    checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", **options))
    record_config(config, workdir, task.complete_config, resuming=bool(checkpoints.steps))
    program = make_program(task, config, mesh)
    if jax.process_index() == 0:
        start = describe_start(config, checkpoints.steps, given=variables is not None)
        logger.info("%s", make_banner(task, config, program, start, workdir))
    state = restore_or_initialize(task, config, program, checkpoints, variables)
    done = int(jax.device_get(state.step))
    if done < config.total_steps:
        trained = program.partition.list_trained(program.shapes.params)
        variables = program.join(state.variables)
        task.prepare_training(variables, trained=trained, workdir=workdir)
    if done >= config.total_steps:
        logger.info(
            "%s is finished at step %d: `segjax eval --checkpoint %s --out DIR` measures it, a "
            "larger config.total_steps goes on",
            *(workdir, done, workdir),
        )
    progress = dict(step=done, total_steps=config.total_steps, shown=task.shown_metrics)
    writer = stack.enter_context(MetricWriter(workdir, **progress))
    return Run(task, config, workdir, lock, program, checkpoints, writer), state, done
