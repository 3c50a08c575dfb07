"""Train the next model of an annotated folder, from the model of the last round.

  segjax engine retrain photos/
  segjax engine retrain photos/ --config sam/finetune:decoder --mix data/sa1b=1
  segjax engine retrain photos/ --detector --config mask_rcnn/finetune:tiny
  segjax serve photos/ --checkpoint photos/rounds/0001/sam

A round starts when it is due: when there are half as many objects more than in the last round.
--force starts it anyway. --detector trains a detector of one class on the same objects, which
`segjax engine prefill` uses. Any field of the experiment can be changed with --config.key=value.

Files:
  FOLDER/rounds/0001/sam       the run of a round, as of `segjax train`
  FOLDER/rounds/0001/sam.json  what it was trained on
"""

import argparse
import pathlib
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("folder", metavar="FOLDER", help="annotated folder of images")
    parser.add_argument(
        "--config",
        metavar="FILE.py[:VARIANT]",
        help="experiment (default: sam/finetune:tiny, with --detector mask_rcnn/finetune:tiny)",
    )
    parser.add_argument("--detector", action="store_true", help="train a detector of one class")
    parser.add_argument(
        "--mix",
        action="append",
        default=[],
        metavar="DATA=WEIGHT",
        help="prepared data to mix in; the committed objects have weight 1; repeatable",
    )
    parser.add_argument("--force", action="store_true", help="start a round that is not due")
    parser.set_defaults(passes_flags=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Trains the round if it is due, and prints where it is.

    You can skip this function: the work is in `segjax.engine.rounds`.

    Raises:
      ValueError: no committed object, or arguments that do not fit together.
      OSError: a folder that cannot be read or written.
    """
    folder = pathlib.Path(args.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no annotated folder: {folder}")
    mix = dict(_parse_mix(text) for text in args.mix)
    from segjax.cli import keep_compiled_programs
    from segjax.cli.experiments import read_config
    from segjax.cli.overrides import apply_flags
    from segjax.cli.train import log_progress
    from segjax.engine.rounds import explain_wait, start_round

    keep_compiled_programs()
    # The experiment, with the changes of the command line
    kind = "detector" if args.detector else "sam"
    default = "mask_rcnn/finetune:tiny" if args.detector else "sam/finetune:tiny"
    config = apply_flags(read_config(args.config or default), rest)
    reason = explain_wait(folder, kind)
    if reason and (not args.force or "no object" in reason):
        print(f"no round: {reason}")
        return 0
    log_progress()
    done = start_round(folder, config, kind=kind, extra=mix)
    print(
        f"{done.run}: round {done.number}, {done.about['objects']} objects of "
        f"{done.about['images']} images, from {done.about['start']}"
    )
    return 0


def _parse_mix(text: str) -> tuple[str, float]:
    """Parses a value of --mix.

    Raises:
      ValueError: no weight above 0.
    """
    data, _, weight = text.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not data or not value > 0:
        raise ValueError(f"--mix is {text!r}; expected DATA=WEIGHT, such as data/sa1b=0.1")
    return data, value
