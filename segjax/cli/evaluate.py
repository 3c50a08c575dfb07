"""Measure a checkpoint as the field does: mean IoU after 1, 2, 3, 5, 9 simulated clicks, clicks to 85 and 90 %.

  segjax eval --checkpoint runs/quickstart --out runs/quickstart
  segjax eval --checkpoint runs/nuclei --data data/nuclei --split stage1_test --out runs/nuclei/test
  segjax eval --checkpoint sam_vit_b_01ec64.pth --data data/coco --out out/sam_vit_b

Without --data the run's own evaluation split is used. --step best measures the checkpoint that the run's
config.checkpoint.best kept. --config.key=value changes the run's config, for example --config.eval.limit=16. Written to
DIR: interactive.json, which holds {"trained": {"iou@1": ..., ...}}, curve.png and pictures.png. With --untrained, fresh
parameters are measured too, and interactive.json also has "untrained".
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line takes; the module's docstring is its help."""
    from segjax.cli import checkpoint_step

    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a run's workdir, or a file with weights")
    parser.add_argument("--step", type=checkpoint_step, metavar="N|best", help="checkpoint (default: newest)")
    parser.add_argument("--data", metavar="PREPARED", help="a folder written by `segjax prepare`")
    parser.add_argument("--split", metavar="S", help="which of its splits")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--untrained", action="store_true", help="measure the model before training as well")
    parser.set_defaults(passes_flags=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Evaluates, writes the files and prints a table. Raises ValueError or OSError for bad input."""
    from segjax.cli import keep_compiled_programs
    from segjax.inference.loading import read_model

    keep_compiled_programs()
    _, variables, checkpoint, model = read_model(args.checkpoint, step=args.step, only="sam")
    config = evaluation_config(checkpoint.saved | {"model": model}, args.data, args.split, rest)

    import jax

    variables = jax.device_put(variables)

    from segjax import plots, viz
    from segjax.data.records import encode_png
    from segjax.files import write_whole
    from segjax.tasks import make_task
    from segjax.training.sharding import make_mesh
    from segjax.training.start import quick_compilation

    task, mesh = make_task(config), make_mesh()
    scores = task.interactive_scores(variables, mesh=mesh)
    out = pathlib.Path(args.out)
    path = scores.save(out)
    numbers = {pathlib.Path(args.checkpoint).resolve().name: scores.numbers()}
    if args.untrained:
        with quick_compilation():
            fresh = jax.jit(task.init)(jax.random.key(config.seed))
        untrained = task.interactive_scores(fresh, mesh=mesh)
        scores.save(out, untrained)
        numbers = {"trained": scores.numbers(), "untrained": untrained.numbers()}
    plots.curve(numbers, out / "curve.png")
    if scores.pictures:
        write_whole(out / "pictures.png", encode_png(viz.interaction_sheet(scores.pictures)))
    for name, values in numbers.items():
        print(f"{name}\n{table(values)}")
    print(f"{path}, {out / 'curve.png'}")
    return 0


def table(numbers: Mapping[str, float]) -> str:
    """Mean IoU by number of clicks, for all objects and by size, and the other numbers below, for people."""
    counts = sorted(int(name[4:]) for name in numbers if name.startswith("iou@") and "/" not in name)
    lines = [f"{'mean IoU':<10}" + "".join(f"{f'{k} pt':>8}" for k in counts) + f"{'objects':>10}"]
    for size in ("", "/small", "/medium", "/large"):
        if objects := numbers.get(f"objects{size}"):
            cells = "".join(f"{numbers[f'iou@{k}{size}']:>8.3f}" for k in counts)
            lines.append(f"{size[1:] or 'all':<10}{cells}{objects:>10.0f}")
    noc = ", ".join(f"NoC@{at} {numbers[f'noc@{at}']:.2f}" for at in (85, 90))
    cap = f"of at most {numbers['max_points']:.0f} clicks"
    lines.append(
        f"best of three masks at 1 point {numbers['oracle@1']:.3f}; {noc} {cap}; {numbers['images']:.0f} images"
    )
    return "\n".join(lines)


def evaluation_config(saved: dict[str, Any], data: str | None, split: str | None, flags: Sequence[str]) -> Any:
    """The run's config, pointed at other data and changed by `--config.key=value` flags.

    Weights without a run ({"model": ...} is all they say) are measured by the protocol's defaults.
    Raises ValueError for such weights without data, --split without data, or an unknown key.
    """
    from segjax.cli.experiments import apply_flags
    from segjax.tasks import completed

    if "task" not in saved:
        if data is None:
            raise ValueError("these weights come without a run and its data; say on what to measure: --data PREPARED")
        saved = {"task": "promptable", "model": saved["model"]}
    config = completed(saved)
    if data is not None:
        from segjax.data.splits import splits_of

        config.data.source = data
        splits = splits_of(data, config.data.tfds_dir)
        if split is None and config.data.eval_split not in splits and len(splits) == 1:
            split = splits[0]
    if split is not None:
        if config.data.source == "synthetic":
            raise ValueError(f"--split {split} without --data: synthetic scenes have one evaluation split only")
        config.data.eval_split = split
    return apply_flags(config, flags)
