"""Train the experiment of a config file. A workdir that holds checkpoints is resumed, bit for bit.

  segjax train --config=experiments/sam/quickstart.py --workdir=runs/quickstart
  segjax train --config=experiments/sam/quickstart.py:debug --workdir=runs/try \\
      --config.total_steps=20
  segjax train --config=sam/coco --workdir=runs/coco --config.data.source=data/coco
  segjax train --config=sam/finetune:lora --plan rtx4090
  segjax train --list

A file of your own or an experiment of segjax by name: --list prints the names.
Any field of the config can be changed with --config.key=value. The workdir receives config.json,
metrics.jsonl, tb/ (TensorBoard), pictures/ and checkpoints/. SIGTERM and Ctrl-C save and stop. The
same command resumes the run. While it runs, no other run can use the workdir.

Several processes: run the same command on each, with --coordinator=HOST:PORT --processes=N
--process_id=I. On TPU pods and under Slurm --distributed is enough, because jax finds the processes
itself. If a process is lost, the others end within --heartbeat_timeout seconds, with status 75 and
a message that names it. See docs/guides/launching.md.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from segjax.cli import guard, processes
from segjax.cli.memory import keep_freed_memory
from segjax.cli.plan import DEVICES, HERE, run_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:VARIANT]",
        help="config file of the experiment, or the name of one of segjax or of a package",
    )
    parser.add_argument(
        "--list", action=_ListExperiments, nargs=0, help="list the experiments by name, and stop"
    )
    parser.add_argument("--workdir", metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--plan",
        nargs="?",
        const=HERE,
        metavar="DEVICE",
        help="print parameters, memory and operations of the step instead of training, for the "
        f"devices at hand or one of {', '.join(DEVICES)}",
    )
    processes.add_arguments(parser)
    parser.set_defaults(passes_flags=True)


class _ListExperiments(argparse.Action):
    """Option that prints all experiments and ends the command, as --version does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from segjax.cli.experiments import describe_experiments

        print(describe_experiments())
        parser.exit()


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Trains to the end. You can skip this; the loop is in `segjax.training.loop.train`."""
    from segjax.cli.experiments import find_experiment

    find_experiment(args.config)
    if args.workdir is None and args.plan is None:
        raise ValueError("--workdir is missing: the folder that receives the run")
    join_processes = contextlib.nullcontext()
    if processes.is_distributed(args):
        # This process guards a child that runs the same command
        if guard.is_needed():
            timeouts = {name: getattr(args, name) for name in ("heartbeat_timeout", "join_timeout")}
            command = [sys.executable, "-m", "segjax", *args.argv]
            return guard.guard(command, coordinator=args.coordinator, **timeouts)
        guard.end_with_guard()
        join_processes = processes.join(args)
    keep_freed_memory()  # before jax is imported

    from segjax.cli import keep_compiled_programs
    from segjax.cli.experiments import read_config
    from segjax.cli.overrides import apply_flags

    keep_compiled_programs()
    # Before joining: a mistake in the config is reported without waiting for the other processes
    config = apply_flags(read_config(args.config), rest)
    log_progress()
    if args.plan is not None:
        run_plan(config, args.plan)
        return 0

    from segjax.tasks import make_task
    from segjax.training.loop import train

    with join_processes:
        _check_attention(config)
        train(make_task(config), config, args.workdir)
    return 0


def _check_attention(config: Any) -> None:
    """Raises ValueError that names the setting, if the attention kernel needs other devices."""
    import jax

    from segjax.models.attention import KERNEL_PLATFORM

    requested = config.get("model", {}).get("attention")
    available = jax.default_backend()
    if (needed := KERNEL_PLATFORM.get(requested, available)) != available:
        raise ValueError(
            f"config.model.attention={requested!r} is a kernel for {needed.upper()}s, and jax "
            f"finds a {available.upper()} here; set --config.model.attention=xla, which runs "
            "everywhere"
        )


def log_progress() -> None:
    """Sends segjax's log messages to standard error."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("segjax")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [handler]
    logger.propagate = False  # libraries may give the root logger a handler too
