"""Add objects that people need not draw to the images that are not done (stage 2).

  segjax engine prefill photos/ --checkpoint photos/rounds/0001/sam
  segjax engine prefill photos/ --checkpoint photos/rounds/0001/sam \\
      --detector photos/rounds/0001/detector

A detector of one class (`segjax engine retrain --detector`) finds objects, and the SAM draws them
from its boxes. Without one, segment-everything proposes what the SAM is sure of. Proposals that
overlap a committed object are left out. The page shows the others as objects, which people may
correct or remove.
"""

import argparse
import pathlib
from collections.abc import Sequence

from segjax.cli.inference.image_arguments import add_model_arguments, get_percentiles, load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("folder", metavar="FOLDER", help="annotated folder of images")
    add_model_arguments(parser, "sam_vit_b")
    parser.add_argument("--detector", metavar="PATH", help="detector: a run, a file or a name")
    parser.add_argument(
        "--min-score", type=float, default=0.9, metavar="P", help="lowest score (default: 0.9)"
    )
    add_stability_argument(parser)


def add_stability_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --stability, the lowest stability score of segment-everything's proposals."""
    parser.add_argument(
        "--stability",
        type=float,
        default=0.9,
        metavar="T",
        help="lowest stability score without a detector (default: 0.9)",
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Adds the proposals and prints how many.

    You can skip this function: the work is in `segjax.engine.prefill`.

    Raises:
      ValueError: a model of another family, or a score outside of 0..1.
      OSError: a folder that cannot be read or written.
    """
    folder = pathlib.Path(args.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no annotated folder: {folder}")
    from segjax.engine.prefill import prefill, propose_by_detector, propose_everything
    from segjax.inference.detection.detector import Detector
    from segjax.inference.numbers import check_numbers
    from segjax.inference.sam.predictor import SamPredictor

    check_numbers(0, 1, min_score=args.min_score, stability=args.stability)
    model, variables, config = load_model(args)
    predictor = SamPredictor(model, variables, percentiles=get_percentiles(config))
    if args.detector:
        detector = Detector.load(args.detector)
        propose = propose_by_detector(detector, predictor, args.min_score)
    else:
        propose = propose_everything(predictor, args.min_score, args.stability)
    report = prefill(folder, propose, predictor)
    print(
        f"{folder}: {report.objects} objects added to {report.images} images; "
        f"{report.overlapping} proposals overlap committed objects, {report.done} images are done"
    )
    return 0
