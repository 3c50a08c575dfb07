"""Train the experiment of a config file. A workdir that holds checkpoints is resumed, bit for bit.

  segjax train --config=experiments/sam/quickstart.py --workdir=runs/quickstart
  segjax train --config=experiments/sam/quickstart.py:debug --workdir=runs/try --config.total_steps=20
  segjax train --config=experiments/sam/coco.py --workdir=runs/coco --config.data.source=data/coco

Any field of the config can be changed with --config.key=value. The workdir receives config.json, metrics.jsonl,
tb/ (TensorBoard), pictures/ and checkpoints/. SIGTERM and Ctrl-C save and stop; the same command goes on.

Several processes: the same command on each, with --coordinator=HOST:PORT --processes=N --process_id=I; on TPU pods
and Slurm, which tell jax all that, --distributed alone. When one is lost the others end within --heartbeat_timeout
seconds, with status 75 and a line that names it. See docs/launching.md.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from segjax.cli import guard, processes
from segjax.cli.memory import keep_freed_memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line takes; the module's docstring is its help."""
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:VARIANT]", help="the experiment"
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run lives")
    processes.add_arguments(parser)
    parser.set_defaults(passes_flags=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Trains to the end. Raises what `segjax.training.loop.train` raises."""
    from segjax.cli.experiments import check_experiment

    check_experiment(args.config)
    if not processes.several(args):
        _train(args, rest, contextlib.nullcontext())
        return 0
    if guard.needed():
        timeouts = {name: getattr(args, name) for name in ("heartbeat_timeout", "join_timeout")}
        command = [sys.executable, "-m", "segjax", *args.argv]
        return guard.guard(command, coordinator=args.coordinator, **timeouts)
    guard.end_with_guard()
    _train(args, rest, processes.joined(args))
    return 0


def _train(
    args: argparse.Namespace, rest: Sequence[str], together: contextlib.AbstractContextManager
) -> None:
    from segjax.cli import keep_compiled_programs
    from segjax.cli.experiments import apply_flags, read_config

    keep_freed_memory()
    keep_compiled_programs()
    config = apply_flags(
        read_config(args.config), rest
    )  # a mistake in it is told before the others are waited for
    _log_progress()

    from segjax.tasks import make_task
    from segjax.training.loop import train

    with together:
        _check_attention(config)
        train(make_task(config), config, args.workdir)


def _check_attention(config: Any) -> None:
    """Raises ValueError for a kernel of other devices than are here; what jax says would not name the setting."""
    import jax

    from segjax.models.attention import KERNEL_OF

    asked, here = config.model.get("attention"), jax.default_backend()
    if (needed := KERNEL_OF.get(asked, here)) != here:
        raise ValueError(
            f"config.model.attention={asked!r} is a kernel of {needed.upper()}s, and jax finds a {here.upper()} here; "
            "set --config.model.attention=xla, which runs everywhere"
        )


def _log_progress() -> None:
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("segjax")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [handler]
    logger.propagate = False  # some library or other gives the root a handler too
