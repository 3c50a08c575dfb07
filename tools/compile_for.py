"""Compiles an experiment's training step for a TPU slice, with no TPU attached, and says whether it fits.

    python tools/compile_for.py --config=experiments/mae/imagenet_b.py --topology=v5e-256
    python tools/compile_for.py --config=experiments/sam/sa1b_vit_h.py --topology=v5p-128 --config.batch_size=512
    python tools/compile_for.py --config=experiments/mae/imagenet_h.py --topology=v5e-256 --slices=2

It is the step that `segjax train` would run there, with its shardings, compiled by the compiler of TPUs (extra `tpu`).
Nothing is run: memory and exchanges are the compiler's, times are arithmetic. See docs/guides/scaling.md.

Exit status: 0 it fits, 1 it does not, 2 wrong use, or what is needed is missing.
"""

import argparse
import os
import sys
from collections.abc import Sequence

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax: attached accelerators are left alone

from segjax.cli.experiments import apply_flags, read_config  # noqa: E402
from segjax.scaling.slices import SetupError, known_slices, parse_slice  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:VARIANT]", help="the experiment"
    )
    parser.add_argument("--topology", required=True, metavar="NAME", help=", ".join(known_slices()))
    parser.add_argument(
        "--slices", type=int, default=1, help="so many of them, joined by the data centre's network"
    )
    parser.add_argument(
        "--quick", action="store_true", help="less than half of the time; says somewhat more memory"
    )
    parser.add_argument("--row", action="store_true", help="print the row of docs/guides/scaling.md alone")
    parser.add_argument(
        "--text", default="", metavar="FILE", help="write the compiled program there"
    )
    args, rest = parser.parse_known_args(argv)
    try:
        on = parse_slice(args.topology, args.slices)
        config = apply_flags(read_config(args.config), rest)

        from segjax.scaling.compilation import compile_step, report, table_row
        from segjax.tasks import complete_config, make_task

        found = compile_step(
            make_task(config), complete_config(config), on, quick=args.quick, text=args.text
        )
    except (ValueError, FileNotFoundError, SetupError) as error:
        print(f"compile_for: {error}", file=sys.stderr)
        return 2
    print(table_row(args.config, found) if args.row else report(found))
    return 0 if found.fits else 1


if __name__ == "__main__":
    sys.exit(main())
