"""Measure a checkpoint, on the evaluation split of its run or on other data.

  segjax eval --checkpoint runs/quickstart --out runs/quickstart
  segjax eval --checkpoint runs/nuclei --data data/nuclei --split stage1_test --out runs/nuclei/test
  segjax eval --checkpoint sam_vit_b_01ec64.pth --data data/coco --out out/sam_vit_b
  segjax eval --checkpoint runs/coco --config.eval.refine=sam_vit_b_01ec64.pth
  segjax eval --checkpoint mae_finetuned_vit_base.pth --data data/imagenet --split val

What is measured depends on the model:
  SAM         mean IoU after 1, 2, 3, 5 and 9 simulated clicks, number of clicks to 85 and 90 % IoU
  Mask R-CNN  COCO average precision of boxes, masks and keypoints. With --config.eval.refine=SAM
              a SAM draws the masks from the boxes.
  classifier  top-1 accuracy, and that of the vote of nearest neighbors
  MAE         loss on masked patches

Files in DIR:
  SAM         interactive.json, curve.png, pictures.png
  Mask R-CNN  evaluation.json, detections.json (COCO's results format), truth.json,
              precision_recall.png, confusion.png, detections.png
  others      evaluation.json and images
The JSON holds {"trained": {"iou@1": ..., ...}}, and "untrained" with --untrained.

--step best measures the checkpoint that config.checkpoint.best selected. --config.key=value changes
the run's config, for example --config.eval.limit=16. A detector's labels are matched to the data's
categories by name.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from segjax.files import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    from segjax.cli import parse_step

    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="a run's workdir, or a file of weights"
    )
    parser.add_argument(
        "--step", type=parse_step, metavar="N|best", help="checkpoint of a run (default: newest)"
    )
    parser.add_argument(
        "--data", metavar="PREPARED", help="folder of `segjax prepare` (default: the run's data)"
    )
    parser.add_argument("--split", metavar="S", help="split (default: the run's evaluation split)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for the results (default: they are only printed)"
    )
    parser.add_argument(
        "--untrained", action="store_true", help="also measure freshly initialized parameters"
    )
    parser.set_defaults(passes_flags=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Evaluates, writes the files and prints a table.

    You can skip this function: the measures are in `segjax.evaluation`, and each task's `evaluate`
    and `write_evaluation` apply them.

    Raises:
      ValueError: Arguments or data that do not fit the model.
      OSError: A file that cannot be read or written.
    """
    if args.out is not None:
        check_writable(args.out)

    from segjax.cli import keep_compiled_programs
    from segjax.inference.loading import read_model
    from segjax.registry import TASKS

    keep_compiled_programs()
    model, variables, checkpoint, options = read_model(args.checkpoint, step=args.step)
    config = make_evaluation_config(
        checkpoint.saved | {"model": options}, args.data, args.split, rest
    )
    TASKS.get(config.task).prepare_evaluation(config, model, checkpoint.saved)

    import jax

    from segjax.tasks import make_task
    from segjax.training.program import quick_compilation
    from segjax.training.sharding import make_mesh

    task, measured = make_task(config), {"trained": jax.device_put(variables)}
    # Variables to measure
    if args.untrained:
        with quick_compilation():
            measured["untrained"] = jax.jit(task.init)(jax.random.key(config.seed))
    out = None if args.out is None else pathlib.Path(args.out)
    title = pathlib.Path(args.checkpoint).resolve().name
    print(task.write_evaluation(measured, out, title=title, mesh=make_mesh()))
    return 0


def make_evaluation_config(
    saved: dict[str, Any], data: str | None, split: str | None, flags: Sequence[str]
) -> Any:
    """Makes the config to evaluate with: the run's, with other data and changed settings.

    Args:
      saved: Config of the run. Of weights without a run it has {"model": ...} alone, and the
        defaults of the model's task are used.
      data: Value of --data.
      split: Value of --split.
      flags: Arguments of the form --config.key=value.

    Returns:
      A complete ConfigDict.

    Raises:
      ValueError: Weights without a run and no data, data with several splits of which none is
        chosen, a split without data, or an unknown key.
    """
    from segjax.cli.overrides import apply_flags
    from segjax.data.mixture import parse_mixture
    from segjax.data.splits import list_splits
    from segjax.models.build import find_family
    from segjax.tasks import complete_config

    if "task" not in saved:
        if data is None:
            raise ValueError(
                "these weights come without a run and its data; choose the data to measure on: "
                "--data PREPARED"
            )
        saved = {"task": find_family(saved["model"]["name"]).task, "model": saved["model"]}
    # Metadata about classes is no setting.
    config = complete_config({name: value for name, value in saved.items() if name != "classes"})
    if data is not None:
        config.data.source = data
        # Other data than the run's
        splits = list_splits(data, config.data.tfds_dir)
        if split is None and not any("config.data.eval_split" in flag for flag in flags):
            split = _choose_split(config.data, splits)
    # The split to measure on
    if split is not None:
        if config.data.source == "synthetic":
            raise ValueError(
                f"--split {split} without --data: synthetic scenes have one evaluation split only"
            )
        config.data.eval_split = split
        others = [e for e in parse_mixture(config.data.to_dict()) if e.eval_split != split]
        if others:
            raise ValueError(
                f"--split {split} without --data: {others[0].source!r} of this run's mixture has "
                f"the evaluation split {others[0].eval_split!r}; leave --split out, or "
                "measure a prepared folder alone with --data FOLDER --split NAME"
            )
    return apply_flags(config, flags)


def _choose_split(data: Any, splits: Sequence[str]) -> str | None:
    """Chooses the split to measure on: the data's only one, or None for the one in the config.

    Raises:
      ValueError: There are several splits, none of the name that the config has.
    """
    # A part of a split, such as "train[80%:]", is chosen like the split.
    if data.eval_split.partition("[")[0] in splits:
        return None
    if len(splits) > 1:
        choice = " or ".join(f"--split {name}" for name in splits)
        raise ValueError(
            f"{data.source} has no split {data.eval_split!r} to measure on; choose {choice}"
        )
    return splits[0]
