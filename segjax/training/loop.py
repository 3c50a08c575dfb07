"""The training loop, for every task."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np

from segjax.training import sharding
from segjax.training.checkpoints import Checkpoints
from segjax.training.defaults import check_config
from segjax.training.interruption import Interrupted, Interruption
from segjax.training.memory import explained
from segjax.training.metrics import MetricWriter
from segjax.training.monitor import Monitor
from segjax.training.program import Program, make_program
from segjax.training.resume import plain, record_config
from segjax.training.start import first_state
from segjax.training.state import TrainState
from segjax.training.task import Task, Variables
from segjax.training.throughput import peak_tflops
from segjax.training.workdir import open_workdir

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Run:
    """What stays the same from step to step."""

    task: Task
    config: ml_collections.ConfigDict
    program: Program
    checkpoints: Checkpoints
    writer: MetricWriter

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Starts to save the state, with the config and what an evaluation of it has found."""
        done = int(jax.device_get(state.step))
        meta = {"config": plain(self.config), "examples": done * self.config.batch_size}
        if hasattr(self.task, "classes"):
            meta["classes"] = self.task.classes()
        with jax.transfer_guard("allow"):
            self.checkpoints.save(state, meta, metrics)

    def evaluate(self, state: TrainState, done: int) -> dict[str, float]:
        """The task's numbers for the state, logged as those of step `done`, with its pictures.

        Raises what the task raises, and ValueError when checkpoint.best is none of the numbers; saves the state first.
        """
        began = time.perf_counter()
        try:
            with jax.transfer_guard("allow"):
                numbers, images = self.task.evaluate(state.best_variables, mesh=self.program.mesh)
            best = self.config.checkpoint.best
            if best and best not in numbers:
                raise ValueError(
                    f"checkpoint.best is {best!r}; the evaluation gives {', '.join(sorted(numbers))}"
                )
        except Exception:
            self.save(state)  # what was trained outlives a fault of the evaluation
            raise
        numbers = {name: float(value) for name, value in numbers.items()}
        self.writer.scalars(done, {**numbers, "eval_seconds": time.perf_counter() - began})
        self.writer.pictures(done, images)
        return numbers


def train(
    task: Task,
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    *,
    variables: Variables | None = None,
) -> TrainState:
    """Trains to config.total_steps and returns the state; resumes when workdir holds a checkpoint.

    Parameters come from the run's own newest checkpoint, else from `variables` or config.init_from, else from
    task.init. config: `segjax.training.defaults.base_config` plus the task's own fields. workdir receives
    config.json, metrics.jsonl, tb/, pictures/ and checkpoints/; several processes must share it.

    Raises ValueError for a config or workdir that does not fit, CheckpointError, NonFiniteError when loss or gradients
    blow up (the state before that step is saved), Interrupted (a SystemExit) after SIGTERM or SIGINT, saved.
    """
    check_config(config)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    sharding.check_batch_size(config.batch_size, config.microbatches, mesh)
    workdir = open_workdir(workdir)
    ckpt_options = {n: config.checkpoint[n] for n in ("keep", "best", "best_mode")}
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        interruption = stack.enter_context(Interruption())
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", **ckpt_options))
        record_config(config, workdir, task.completed, resuming=bool(checkpoints.steps))
        program = make_program(task, config, mesh)
        state = first_state(task, config, program, checkpoints, variables)
        done = int(jax.device_get(state.step))
        if done >= config.total_steps:
            logger.info(
                "%s is finished at step %d: `segjax eval --checkpoint %s --out DIR` measures it, a larger "
                "config.total_steps goes on",
                *(workdir, done, workdir),
            )
        writer = stack.enter_context(
            MetricWriter(workdir, step=done, total_steps=config.total_steps)
        )
        run = Run(task, config, program, checkpoints, writer)
        batches = task.batches(
            "train",
            batch_size=config.batch_size,
            start=done * config.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            seed=config.seed,
            workdir=workdir,
        )
        stack.callback(getattr(batches, "close", lambda: None))
        return run_steps(run, state, done, batches, workdir, interruption)


def run_steps(
    run: Run,
    state: TrainState,
    done: int,
    batches: Iterator[dict[str, np.ndarray]],
    workdir: pathlib.Path,
    interruption: Interruption,
) -> TrainState:
    """Steps `done` .. total_steps. Nothing here waits for the devices except where it says so."""
    config, program = run.config, run.program
    complete = functools.partial(run.task.completed, config)
    operations, dtype = run.task.operations()
    peak = config.peak_tflops or peak_tflops(jax.devices()[0], dtype)
    work = dict(operations=operations, peak_tflops=peak)
    work["programs"] = getattr(run.task, "programs", 1)
    monitor = Monitor(
        program.step, config.batch_size, config.profile_steps, workdir / "profile", **work
    )
    with contextlib.closing(monitor), jax.transfer_guard("disallow"):
        while done < config.total_steps:
            with monitor.loading():
                batch = next(batches)
                placed = sharding.place_batch(batch, program.mesh)
            with explained(program, complete, placed, done):
                with monitor.stepping(done):
                    state, metrics = program.step(state, placed)
                done += 1
                monitor.add(done, batch.get("index"), metrics)
            run.writer.advance(done)

            last, stop = done == config.total_steps, interruption.requested(done)
            evaluates = last or (not stop and config.eval_every and done % config.eval_every == 0)
            saves = (
                last or stop or (config.checkpoint.every and done % config.checkpoint.every == 0)
            )
            if evaluates or saves or done % config.log_every == 0:
                monitor.check(
                    functools.partial(run.save, state)
                )  # waits; raises when a step was not finite
            if last or done % config.log_every == 0:
                run.writer.scalars(done, monitor.row())
            if saves and (stop or not (evaluates and config.checkpoint.best)):
                run.save(state)  # before the evaluation, which may be long and cut short by a kill
            if evaluates:
                numbers = run.evaluate(state, done)
                if config.checkpoint.best:
                    run.save(state, numbers)
            if evaluates or saves:
                monitor.restart_clock()
            if stop and not last:
                run.checkpoints.wait()
                raise Interrupted(done, interruption.signum)
        run.checkpoints.wait()
    return state
