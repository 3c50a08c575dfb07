"""A training step on 1, 2, 4, 8 feigned devices: throughput, exchanges, and how far off the step's arithmetic is.

    .venv/bin/python tools/device_scaling.py --config=experiments/mae/quickstart.py
    .venv/bin/python tools/device_scaling.py --config=experiments/mae/quickstart.py --fsdp --config.mesh.floor=4096

Each number of devices has a process of its own, which compiles the step that `segjax train` would run, reads its
exchanges out of the compiled program, and runs it on one batch of the whole run. The batch is the same for all, and
so is the loss, but for rounding. The devices share the cores of this machine. So throughput should stay about level,
and what is lost is the price of splitting: exchanges, smaller products, and work that every device does by itself
(whole parameters are updated by each). It says nothing of how much faster several real devices would be.

Beside it is the arithmetic of docs/guides/scaling.md with this machine's rates, measured in the same process: the best of
some large products and of some passes over a large array. `of the longest` and `of the sum` are the measured step by
what the arithmetic says where all overlaps and where nothing does: its error on devices that were really used.
A loop of random length (`rounds.sampled`) counts as one turn there: set `--config.rounds.sampled=false`.

Exit status: 0, or 2 for wrong use.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
from collections.abc import Sequence
from typing import Any

from segjax.cli.experiments import apply_flags, read_config
from segjax.data.threads import count_usable_cores


def measured(experiment: str, flags: Sequence[str], devices: int, fsdp: bool, steps: int) -> Any:
    """In a process of its own: the step of an experiment on so many devices, its parameters split over them or whole.

    It is compiled anew, and not kept: a program is cut into as many pieces as there were cores when it was compiled.
    Returns a `segjax.scaling.measured.Measured`; raises what reading the experiment and `measure_step` raise.
    """
    from segjax.cli.memory import keep_freed_memory

    keep_freed_memory()  # as `segjax train` does, before jax is there
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from segjax.scaling.measured import measure_step, measured_rates
    from segjax.tasks import complete_config, make_task

    config = apply_flags(read_config(experiment), flags)
    config.mesh.update(data=1 if fsdp else devices, fsdp=devices if fsdp else 1)
    return measure_step(
        make_task(config), complete_config(config), jax.devices(), measured_rates(), steps=steps
    )


def number(text: str) -> int:
    """Of devices or steps."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least 1")
    return int(text)


def numbers(text: str) -> list[int]:
    """Of devices, with commas between them."""
    return [number(each) for each in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
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
        type=numbers,
        default=[1, 2, 4, 8],
        metavar="N,N",
        help="how many (default 1,2,4,8)",
    )
    parser.add_argument(
        "--fsdp", action="store_true", help="parameters split over the devices as well"
    )
    parser.add_argument(
        "--steps", type=number, default=10, metavar="N", help="counted steps (default 10)"
    )
    args, rest = parser.parse_known_args(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the processes begun here, too
    meshes = [(count, split) for split in (False, True)[: 1 + args.fsdp] for count in args.devices]
    first = None
    for count, split in meshes:
        if split and count == 1:
            continue
        try:
            found = _apart(measured, args.config, rest, count, split, args.steps)
        except (ValueError, FileNotFoundError) as error:
            print(f"device_scaling: {error}", file=sys.stderr)
            return 2
        if first is None:
            first = found
            from segjax.scaling.measured import HEAD, table_row

            rates = f"{found.rates.products / 1e9:.0f}e9 operations and {found.rates.memory / 1e9:.1f}e9 bytes a second"
            print(
                f"{args.config}, {found.images} images, {args.steps} steps on {count_usable_cores()} cores; {rates}"
            )
            print(f"\n{HEAD}")
        print(table_row(found, first), flush=True)
    return 0


def _apart(function: Any, *arguments: Any) -> Any:
    """What the function returns, called in a new process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    sys.exit(main())
