"""Measure a checkpoint as the field does, on the run's own evaluation split or on other data.

  segjax eval --checkpoint runs/quickstart --out runs/quickstart
  segjax eval --checkpoint runs/nuclei --data data/nuclei --split stage1_test --out runs/nuclei/test
  segjax eval --checkpoint sam_vit_b_01ec64.pth --data data/coco --out out/sam_vit_b
  segjax eval --checkpoint runs/probe
  segjax eval --checkpoint mae_finetuned_vit_base.pth --data data/imagenet --split val

A SAM: mean IoU after 1, 2, 3, 5, 9 simulated clicks, clicks to 85 and 90 %. A classifier: the share of pictures that it
names rightly, and of its nearest neighbours. A MAE: the loss on masked patches. A detector: COCO's AP of boxes
and masks; its labels are the data's classes of the same names, see docs/detection.md; with --config.eval.refine=SAM
the masks that a SAM draws from its boxes.

Without --data the run's own evaluation split is used. --step best measures the checkpoint that the run's
config.checkpoint.best kept. --config.key=value changes the run's config, for example --config.eval.limit=16. With
--untrained, fresh parameters are measured too. Written to DIR, if one is given: {"trained": {"iou@1": ..., ...}}, and
perhaps "untrained", as interactive.json for a SAM, with curve.png and pictures.png, and as evaluation.json for others,
with their pictures. A detector's evaluation.json has all of COCO's numbers and AP by class; beside it lie
detections.json (COCO's format of results) and truth.json, precision_recall.png, confusion.png and detections.png.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line takes; the module's docstring is its help."""
    from segjax.cli import checkpoint_step

    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a run's workdir, or a file with weights",
    )
    parser.add_argument(
        "--step", type=checkpoint_step, metavar="N|best", help="checkpoint (default: newest)"
    )
    parser.add_argument("--data", metavar="PREPARED", help="a folder written by `segjax prepare`")
    parser.add_argument("--split", metavar="S", help="which of its splits")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for the results (default: they are printed only)"
    )
    parser.add_argument(
        "--untrained", action="store_true", help="measure the model before training as well"
    )
    parser.set_defaults(passes_flags=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Evaluates, writes the files and prints a table. Raises ValueError or OSError for bad input."""
    from segjax.cli import keep_compiled_programs
    from segjax.inference.detection.class_names import resolve_classes
    from segjax.inference.loading import read_model

    keep_compiled_programs()
    network, variables, checkpoint, model = read_model(args.checkpoint, step=args.step)
    config = evaluation_config(checkpoint.saved | {"model": model}, args.data, args.split, rest)
    if config.task == "detection" and not config.eval.label_names:
        config.eval.label_names = resolve_classes(network, checkpoint.saved).names
        say_what_was_left_out(config.data.source, config.data.eval_split)

    import jax

    from segjax.tasks import make_task
    from segjax.training.program import quick_compilation

    task, measured = make_task(config), {"trained": jax.device_put(variables)}
    if args.untrained:
        with quick_compilation():
            measured["untrained"] = jax.jit(task.init)(jax.random.key(config.seed))
    out = None if args.out is None else pathlib.Path(args.out)
    kinds = {"interactive_scores": _interactive, "detection_scores": _detections}
    measure = next((measure for name, measure in kinds.items() if hasattr(task, name)), _numbers)
    return measure(task, measured, out, pathlib.Path(args.checkpoint).resolve().name)


def say_what_was_left_out(folder: str, split: str) -> None:
    """Of a prepared split: a detector is wrong about pictures without objects too, where they are measured."""
    from segjax.data.prepare import REPORT_FILE

    report = pathlib.Path(folder) / REPORT_FILE
    prepared = json.loads(report.read_text())["splits"].get(split, {}) if report.is_file() else {}
    skipped = prepared.get("skipped", {"images": {}, "objects": {}})
    for what in ("images", "objects"):
        for reason, count in skipped[what].items():
            print(
                f"{folder} was prepared without {count} {what} of {split}: {reason}",
                file=sys.stderr,
            )
    if "image has no objects" in skipped["images"]:
        print(
            "(`segjax prepare --keep-empty` keeps pictures without objects, as COCO measures)",
            file=sys.stderr,
        )


def _interactive(
    task: Any, measured: Mapping[str, Any], out: pathlib.Path | None, name: str
) -> int:
    """A SAM's protocol, which has files of its own."""
    from segjax import viz
    from segjax.files import write_atomic
    from segjax.images.encoding import encode_png
    from segjax.training.sharding import make_mesh
    from segjax.viz import plots

    mesh, scores = make_mesh(), {}
    for of, variables in measured.items():
        scores[of] = task.interactive_scores(variables, mesh=mesh)
        if out is not None:
            path = scores["trained"].save(out, scores.get("untrained"))
    numbers = {of if len(scores) > 1 else name: found.summarize() for of, found in scores.items()}
    if out is not None:
        plots.plot_iou_by_clicks(numbers, out / "curve.png")
        if rounds := scores["trained"].rounds:
            write_atomic(out / "pictures.png", encode_png(viz.draw_interaction_sheet(rounds)))
    for of, values in numbers.items():
        print(f"{of}\n{table(values)}")
    if out is not None:
        print(f"{path}, {out / 'curve.png'}")
    return 0


def _detections(task: Any, measured: Mapping[str, Any], out: pathlib.Path | None, name: str) -> int:
    """A detector's, with what it answered, how precise it is at which recall, and which class it took for which."""
    from segjax.evaluation.detection_scores import format_table as detection_table
    from segjax.files import write_json, write_atomic
    from segjax.images.encoding import encode_png
    from segjax.training.sharding import make_mesh
    from segjax.viz import plots

    scores = {
        of: task.detection_scores(variables, mesh=make_mesh()) for of, variables in measured.items()
    }
    for of, found in scores.items():
        print(f"{of if len(scores) > 1 else name}\n{detection_table(found)}")
    if out is None:
        return 0
    found, least = scores["trained"], task.eval["shown_score"]
    found.save(out)
    if found.sheet is not None:
        write_atomic(out / "detections.png", encode_png(found.sheet))
    plots.plot_confusion_matrix(
        *found.confusion(least),
        out / "confusion.png",
        title=f"Answers with a score of {least:g} or more",
    )
    if curves := found.curves():
        plots.plot_precision_recall(curves, out / "precision_recall.png")
    rows = {of: found.summarize() | {"per_class": found.per_class()} for of, found in scores.items()}
    write_json(out / "evaluation.json", rows)
    print(", ".join(sorted(path.name for path in out.iterdir() if path.is_file())), "in", out)
    return 0


def _numbers(task: Any, measured: Mapping[str, Any], out: pathlib.Path | None, name: str) -> int:
    """What the task's own evaluation finds, as training logs it."""
    from segjax.files import write_json, write_atomic
    from segjax.images.encoding import encode_png
    from segjax.training.sharding import make_mesh

    found = {of: task.evaluate(variables, mesh=make_mesh()) for of, variables in measured.items()}
    numbers = {of: values for of, (values, _) in found.items()}
    if out is not None:
        write_json(out / "evaluation.json", numbers)
        for of, picture in found["trained"][1].items():
            write_atomic(out / f"{of}.png", encode_png(picture))
    print(f"{'':<12}" + "".join(f"{of if len(numbers) > 1 else name:>12}" for of in numbers))
    for key in numbers["trained"]:
        print(f"{key:<12}" + "".join(f"{values[key]:>12.4f}" for values in numbers.values()))
    if out is not None:
        print(out / "evaluation.json")
    return 0


def table(numbers: Mapping[str, float]) -> str:
    """Mean IoU by number of clicks, for all objects and by size, and the other numbers below, for people."""
    counts = sorted(
        int(name[4:]) for name in numbers if name.startswith("iou@") and "/" not in name
    )
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


def evaluation_config(
    saved: dict[str, Any], data: str | None, split: str | None, flags: Sequence[str]
) -> Any:
    """The run's config, pointed at other data and changed by `--config.key=value` flags.

    Weights without a run ({"model": ...} is all they say) are measured by the protocol's defaults.
    Raises ValueError for such weights without data, data of which no split is named, --split without data, or an
    unknown key.
    """
    from segjax.cli.experiments import apply_flags
    from segjax.models.build import find_family
    from segjax.tasks import complete_config

    if "task" not in saved:
        if data is None:
            raise ValueError(
                "these weights come without a run and its data; say on what to measure: --data PREPARED"
            )
        saved = {"task": find_family(saved["model"]["name"]).task, "model": saved["model"]}
    config = complete_config({name: value for name, value in saved.items() if name != "classes"})
    if data is not None:
        from segjax.data.splits import list_splits

        config.data.source = data
        splits = list_splits(data, config.data.tfds_dir)
        named = split is not None or any("config.data.eval_split" in flag for flag in flags)
        if not named and config.data.eval_split not in splits:
            if len(splits) > 1:
                choice = " or ".join(f"--split {name}" for name in splits)
                raise ValueError(
                    f"{data} has no split {config.data.eval_split!r} to measure on; choose {choice}"
                )
            split = splits[0]
    if split is not None:
        if config.data.source == "synthetic":
            raise ValueError(
                f"--split {split} without --data: synthetic scenes have one evaluation split only"
            )
        config.data.eval_split = split
    return apply_flags(config, flags)
