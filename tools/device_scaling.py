"""Runs a training step on 1, 2, 4 and 8 simulated devices and compares it with its estimate.

    .venv/bin/python tools/device_scaling.py --config=experiments/mae/quickstart.py
    .venv/bin/python tools/device_scaling.py --config=experiments/mae/quickstart.py --fsdp \\
      --config.mesh.floor=4096

Every number of devices has its own process. The process compiles the step that `segjax train` would
run, reads the exchanges from the compiled program, and runs it on one batch. The batch is the same
for all numbers of devices, and so is the loss, except for rounding.

The devices share the cores of this machine, so ideal throughput is level. Any loss is the cost of
splitting: exchanges, smaller matrix products, and work that every device repeats, such as updates
of replicated parameters. The table does not show how much faster several real devices would be.

Estimates are those of docs/guides/scaling.md with this machine's rates, which are measured in the
same process: the best of some large matrix products, and of some passes over a large array.
`measured / longest` and `measured / sum` compare the measured step with estimates in which
everything overlaps, or nothing. A loop of random length (`rounds.sampled`) counts as one iteration
there: set --config.rounds.sampled=false.

Exit status: 0, or 2 for wrong arguments.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
from collections.abc import Sequence
from typing import Any

from segjax.cli.experiments import read_config
from segjax.cli.overrides import apply_flags
from segjax.data.threads import count_usable_cores


def measure(experiment: str, flags: Sequence[str], devices: int, fsdp: bool, steps: int) -> Any:
    """Measures the step of an experiment. Call it in a new process.

    The step is compiled anew and not cached, because XLA compiles for the number of cores.

    Args:
      experiment: File of the experiment.
      flags: Arguments of the form --config.key=value.
      devices: Number of simulated devices.
      fsdp: Split parameters over the devices.
      steps: Number of measured steps.

    Returns:
      A `segjax.scaling.measurement.MeasuredStep`.

    Raises:
      ValueError: The experiment does not exist, or does not fit the devices.
    """
    from segjax.cli.memory import keep_freed_memory

    keep_freed_memory()  # as in `segjax train`, before jax is imported
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from segjax.scaling.measurement import measure_rates, measure_step
    from segjax.tasks import complete_config, make_task

    config = apply_flags(read_config(experiment), flags)
    config.mesh.update(data=1 if fsdp else devices, fsdp=devices if fsdp else 1)
    return measure_step(
        make_task(config), complete_config(config), jax.devices(), measure_rates(), steps=steps
    )


def parse_count(text: str) -> int:
    """Parses a number of devices or steps."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least 1")
    return int(text)


def parse_counts(text: str) -> list[int]:
    """Parses numbers of devices, separated by commas."""
    return [parse_count(part) for part in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures each number of devices and prints a row. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:VARIANT]", help="the experiment"
    )
    parser.add_argument(
        "--devices",
        type=parse_counts,
        default=[1, 2, 4, 8],
        metavar="N,N",
        help="numbers of devices (default 1,2,4,8)",
    )
    parser.add_argument("--fsdp", action="store_true", help="also split parameters over devices")
    parser.add_argument(
        "--steps", type=parse_count, default=10, metavar="N", help="measured steps (default 10)"
    )
    args, rest = parser.parse_known_args(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"  # the processes started here inherit it
    # Replicated parameters first, then split ones
    meshes = [(count, split) for split in (False, True)[: 1 + args.fsdp] for count in args.devices]
    first = None
    for count, split in meshes:
        if split and count == 1:
            continue
        try:
            step = _run_in_process(measure, args.config, rest, count, split, args.steps)
        except (ValueError, FileNotFoundError) as error:
            print(f"device_scaling: {error}", file=sys.stderr)
            return 2
        from segjax.scaling.measurement import HEAD, format_table_row

        # The first row is the reference of the others.
        if first is None:
            first = step
            print(
                f"{args.config}, {step.images} images, {args.steps} steps on "
                f"{count_usable_cores()} cores; {step.rates.flops / 1e9:.0f}e9 operations and "
                f"{step.rates.memory / 1e9:.1f}e9 bytes per second"
            )
            print(f"\n{HEAD}")
        print(format_table_row(step, first), flush=True)
    return 0


def _run_in_process(function: Any, *arguments: Any) -> Any:
    """Calls a function in a new process and returns its result."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    sys.exit(main())
