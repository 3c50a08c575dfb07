"""Train the experiment of a config file. A workdir that holds checkpoints is resumed, bit for bit.

  segjax train --config=experiments/sam/quickstart.py --workdir=runs/quickstart
  segjax train --config=experiments/sam/quickstart.py:debug --workdir=runs/try --config.total_steps=20
  segjax train --config=experiments/sam/coco.py --workdir=runs/coco --config.data.source=data/coco

Any field of the config can be changed with --config.key=value. The workdir receives config.json, metrics.jsonl,
tb/ (TensorBoard), pictures/ and checkpoints/. SIGTERM and Ctrl-C save and stop; the same command goes on.

Several processes: the same command on each, with --coordinator=HOST:PORT --processes=N --process_id=I; on TPU pods
and Slurm, which tell jax all that, --distributed alone.
"""

import argparse
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line takes; the module's docstring is its help."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="the experiment")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run lives")
    parser.add_argument("--distributed", action="store_true", help="several processes; jax finds the others itself")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    parser.add_argument("--processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process_id", "--process-id", type=int, metavar="I", help="which one this is, 0..N-1")
    parser.set_defaults(passes_flags=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Trains to the end. Raises what `segjax.training.loop.train` raises."""
    from segjax.cli import keep_compiled_programs
    from segjax.cli.experiments import apply_flags, check_experiment, read_config

    check_experiment(args.config)
    _join_processes(args)
    keep_compiled_programs()
    config = apply_flags(read_config(args.config), rest)
    _log_progress()

    from segjax.tasks import make_task
    from segjax.training.loop import train

    train(make_task(config), config, args.workdir)
    return 0


def _join_processes(args: argparse.Namespace) -> None:
    """jax.distributed, before anything asks for a device."""
    named = (args.coordinator, args.processes, args.process_id)
    if args.distributed or any(value is not None for value in named):
        if not args.distributed and None in named:
            raise ValueError(
                "--coordinator, --processes and --process_id go together: "
                f"got {args.coordinator}, {args.processes} and {args.process_id}"
            )
        import jax

        jax.distributed.initialize(*named)


def _log_progress() -> None:
    import logging
    import sys

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("segjax")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [handler]
    logger.propagate = False  # some library or other gives the root a handler too
