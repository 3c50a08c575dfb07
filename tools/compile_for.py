"""Compiles an experiment's training step for a TPU slice, without a TPU, and tells if it fits.

    python tools/compile_for.py --config=experiments/mae/imagenet_b.py --topology=v5e-256
    python tools/compile_for.py --config=experiments/sam/sa1b_vit_h.py --topology=v5p-128 \\
      --config.batch_size=512
    python tools/compile_for.py --config=experiments/mae/imagenet_h.py --topology=v5e-256 --slices=2

The compiler for TPUs (extra `tpu`) compiles the step that `segjax train` would run there, with its
shardings. Nothing is run: memory and exchanges come from the compiler, times are estimates. See
docs/guides/scaling.md.

Exit status: 0 if the step fits, 1 if it does not, 2 for wrong arguments or a missing compiler.
"""

import argparse
import os
import sys
from collections.abc import Sequence

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax, so that it does not occupy an accelerator

from segjax.cli.experiments import read_config  # noqa: E402
from segjax.cli.overrides import apply_flags  # noqa: E402
from segjax.scaling.slices import SetupError, list_slices, parse_slice  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles the step and prints the report. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:VARIANT]", help="the experiment"
    )
    parser.add_argument("--topology", required=True, metavar="NAME", help=", ".join(list_slices()))
    parser.add_argument(
        "--slices", type=int, default=1, metavar="N", help="number of slices (default 1)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compile in less than half of the time; the reported memory is somewhat larger",
    )
    parser.add_argument(
        "--row", action="store_true", help="print only the row of docs/results/scaling.md"
    )
    parser.add_argument(
        "--text", default="", metavar="FILE", help="write the compiled program's text to FILE"
    )
    args, rest = parser.parse_known_args(argv)
    # Mistakes end with status 2 and one line.
    try:
        target = parse_slice(args.topology, args.slices)
        config = apply_flags(read_config(args.config), rest)

        from segjax.scaling.compilation import compile_step, format_report, format_table_row
        from segjax.tasks import complete_config, make_task

        task = make_task(config)
        result = compile_step(
            task, complete_config(config), target, quick=args.quick, text_file=args.text
        )
    except (ValueError, FileNotFoundError, SetupError) as error:
        print(f"compile_for: {error}", file=sys.stderr)
        return 2
    print(format_table_row(args.config, result) if args.row else format_report(result))
    return 0 if result.fits else 1


if __name__ == "__main__":
    sys.exit(main())
