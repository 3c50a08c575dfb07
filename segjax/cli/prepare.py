"""Turn a raw data set into prepared data: one folder of checked records with random access.

  segjax prepare coco ~/coco --out data/coco --short-side 512
  segjax prepare nuclei ~/dsb2018 --out data/nuclei
  segjax prepare bsds500 ~/BSDS500 --out data/bsds500
  segjax prepare label_maps FOLDER --out data/mine --option category=cell --option held_out=0.1
  segjax prepare images imagenet --out data/imagenet --short-side 256
  segjax prepare coco ~/coco --out data/people --option keypoints=True
  segjax prepare lvis ~/lvis --out data/lvis
  segjax prepare cityscapes ~/cityscapes --out data/cityscapes --keep-empty
  segjax prepare sa1b ~/sa1b --out data/sa1b --option min_stability=0.97
  segjax prepare synthetic --out data/scenes --option count=200 --option difficulty=medium
  segjax prepare synthetic --out data/figures --option kind=figures

Broken images and objects are skipped. The report counts them and names the first of each kind, and
counts what was written: images, objects per class and split, sizes. It is printed and written to
DIR/report.json. --option held_out=0.1 makes a tenth of a single split "val".
"""

import argparse
import ast
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from segjax.messages import make_printable
from segjax.registry import SOURCES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("source", metavar="SOURCE", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument(
        "raw_dir", metavar="RAW_DIR", nargs="?", help="folder of the raw files (not for synthetic)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--splits", metavar="A,B", help="only these splits (default: all)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images per split")
    parser.add_argument(
        "--short-side", type=int, metavar="PX", help="shrink images to a shorter side of PX pixels"
    )
    parser.add_argument(
        "--keep-empty", action="store_true", help="keep images without objects or label"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier preparation")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the source; repeatable",
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Prepares the data and prints the report. Raises as `segjax.data.prepare.prepare`."""
    options = read_options(args.option)

    from segjax.data.prepare import prepare

    with _signals_interrupt() as received:
        try:
            report = prepare(
                args.source,
                args.raw_dir,
                args.out,
                splits=args.splits.split(",") if args.splits else None,
                limit=args.limit,
                short_side=args.short_side,
                keep_empty=args.keep_empty,
                overwrite=args.overwrite,
                **options,
            )
        except KeyboardInterrupt:
            name = signal.Signals(received[0]).name if received else "Ctrl-C"
            print(f"segjax prepare: stopped by {name}; {args.out} is not written", file=sys.stderr)
            return 128 + (received[0] if received else signal.SIGINT)
    print(report)
    return 0


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[list[int]]:
    """Turns SIGTERM, SIGHUP and SIGINT into one KeyboardInterrupt inside the block.

    Later signals are ignored, so that the incomplete data is removed. The list that it yields
    receives the first signal.
    """
    received: list[int] = []

    def interrupt(signum: int, _: object) -> None:
        received.append(signum)
        if len(received) == 1:
            raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    # Python lets only the main thread set handlers. Signals that are ignored stay ignored (nohup).
    is_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.getsignal(number) for number in numbers} if is_main else {}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def read_options(texts: Sequence[str]) -> dict[str, Any]:
    """Parses KEY=VALUE texts. Values that are Python literals are evaluated, others stay text.

    Raises:
      ValueError: A text of another form.
    """
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key.isidentifier() or not equals:
            raise ValueError(f"--option {make_printable(repr(text), 100)}: expected KEY=VALUE")
        try:
            # Numbers, True and tuples are Python literals.
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options
