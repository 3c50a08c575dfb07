"""Turn a raw data set into prepared data: one folder of checked records, read by random access.

  segjax prepare coco ~/coco --out data/coco --short-side 512
  segjax prepare nuclei ~/dsb2018 --out data/nuclei
  segjax prepare bsds500 ~/BSDS500 --out data/bsds500
  segjax prepare label_maps FOLDER --out data/mine --option category=cell
  segjax prepare images imagenet --out data/imagenet --short-side 256
  segjax prepare coco ~/coco --out data/people --option keypoints=True
  segjax prepare lvis ~/lvis --out data/lvis
  segjax prepare cityscapes ~/cityscapes --out data/cityscapes --keep-empty
  segjax prepare sa1b ~/sa1b --out data/sa1b --option min_stability=.97
  segjax prepare synthetic --out data/scenes --option count=200 --option difficulty=medium
  segjax prepare synthetic --out data/figures --option kind=figures

What is broken is left out, counted and named in the report, which is also written to DIR/report.json.
"""

import argparse
import ast
from collections.abc import Sequence
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line takes; the module's docstring is its help."""
    sources = "coco, lvis, cityscapes, label_maps, images, nuclei, bsds500, sa1b or synthetic"
    parser.add_argument("source", metavar="SOURCE", help=sources)
    parser.add_argument(
        "raw_dir", metavar="RAW_DIR", nargs="?", help="folder of the raw files (none for synthetic)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--splits", metavar="A,B", help="only these splits (default: all there are)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images of each split")
    parser.add_argument(
        "--short-side", type=int, metavar="PX", help="shrink larger pictures to this shorter side"
    )
    parser.add_argument(
        "--keep-empty", action="store_true", help="keep pictures without objects or label"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier preparation wrote"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="the source's own; repeatable",
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Prepares and prints the report. Raises what `segjax.data.prepare.prepare` raises."""
    options = read_options(args.option)

    from segjax.data.prepare import prepare

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
    except TypeError as error:
        if options and "unexpected keyword argument" in str(error):
            raise ValueError(
                f"the source {args.source!r} does not have all of the options {sorted(options)}"
            ) from error
        raise
    print(report)
    return 0


def read_options(texts: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE texts as a dict; values that are Python literals become them. Raises ValueError for another form."""
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key.isidentifier() or not equals:
            raise ValueError(f"--option {text!r}: expected KEY=VALUE")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options
