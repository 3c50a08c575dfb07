"""Compares ways to fine-tune at equal wall time: one run per preset and seed, then a table.

    segjax prepare nuclei path/to/dsb2018_nuclei --out data/nuclei
    python tools/finetune_table.py --data data/nuclei --minutes 10 --seeds 3 --out runs/finetune
    python tools/finetune_table.py --data data/nuclei --minutes 10 --limit 16 --out runs/few

The seconds of a step are measured first, so that each run takes the given minutes with a schedule
that ends there. Finished runs are kept: the same command goes on after an interruption, and the
Markdown table is written anew after every run. Nothing else should run meanwhile.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

# name -> arguments of `segjax train` beside those that all runs share
PRESETS = {
    "decoder": ["--config.trainable=decoder"],
    "decoder, cached": [
        "--config.trainable=decoder",
        "--config.data.embeddings.folder={cache}",
        "--config.data.augment.scale=()",
        "--config.data.augment.brightness=0.0",
        "--config.data.augment.contrast=0.0",
    ],
    "lora": ["--config.trainable=lora"],
    "late:2": ["--config.trainable=late:2"],
    "full": ["--config.trainable="],
    "from scratch": [
        "--config.trainable=",
        "--config.init_from=",
        "--config.optimizer.peak_lr=6e-3",
    ],
}
_PROBE_STEPS = 30
_FEWEST_STEPS = 100  # more than the warm-up of the recipe
METRICS = ("iou@1", "iou@5", "oracle@1")


def main() -> int:
    """Runs what is missing, and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared folder")
    parser.add_argument("--train-split", default="stage1_train", metavar="NAME")
    parser.add_argument("--eval-split", default="stage1_test", metavar="NAME")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of a run")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each preset")
    parser.add_argument("--limit", type=int, default=0, help="training images, 0 for all")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--init-from", default="sam_tiny_demo", metavar="PATH")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for preset in args.presets:
            rows.setdefault(preset, []).append(run_preset(args, preset, seed))
            table = format_table(args, rows)
            (args.out / "table.md").write_text(table + "\n")
            print(table, flush=True)
    return 0


def run_preset(args: argparse.Namespace, preset: str, seed: int) -> dict[str, float]:
    """Trains and measures one preset, unless that has been done. Returns its row."""
    name = preset.replace(", ", "-").replace(":", "").replace(" ", "-")
    folder = args.out / f"{name}-{seed}"
    result = folder / "row.json"
    if result.exists():
        return json.loads(result.read_text())
    # The time of a step, without compilation
    steps_file = args.out / f"{name}.json"
    if not steps_file.exists():
        probe = args.out / f"{name}-probe"
        train(args, preset, seed, probe, _PROBE_STEPS, evaluate=False)
        steps_file.write_text(json.dumps({"seconds_per_step": read_step_seconds(probe)}))
    seconds = json.loads(steps_file.read_text())["seconds_per_step"]
    steps = max(_FEWEST_STEPS, int(args.minutes * 60 / seconds))
    began = time.monotonic()
    train(args, preset, seed, folder, steps, evaluate=True)
    metrics = read_evaluation(folder)
    row = {metric: metrics[metric] for metric in METRICS}
    row |= {"steps": steps, "seconds_per_step": seconds, "minutes": (time.monotonic() - began) / 60}
    result.write_text(json.dumps(row))
    return row


def train(
    args: argparse.Namespace,
    preset: str,
    seed: int,
    folder: pathlib.Path,
    steps: int,
    *,
    evaluate: bool,
) -> None:
    """Runs `segjax train` and raises CalledProcessError if it fails."""
    split = f"{args.train_split}[:{args.limit}]" if args.limit else args.train_split
    command = [sys.executable, "-m", "segjax", "train", "--config=sam/finetune:tiny"]
    command += [f"--workdir={folder}", f"--config.total_steps={steps}", f"--config.seed={seed}"]
    command += [f"--config.data.source={args.data}", f"--config.data.train_split={split}"]
    command += [f"--config.data.eval_split={args.eval_split}", "--config.checkpoint.every=0"]
    command += [f"--config.init_from={args.init_from}", f"--config.log_every={max(1, steps // 20)}"]
    command += [option.format(cache=args.out / "embeddings") for option in PRESETS[preset]]
    if not evaluate:
        command += ["--config.eval.limit=1", "--config.log_every=10"]
        command += ["--config.optimizer.warmup_steps=0"]  # the probe is shorter than the warm-up
    subprocess.run(command, check=True)


def read_rows(folder: pathlib.Path) -> list[dict[str, float]]:
    """Reads the log of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read_step_seconds(folder: pathlib.Path) -> float:
    """Returns the seconds of a step in the last row of a run's log that has them."""
    return [row["seconds_per_step"] for row in read_rows(folder) if "seconds_per_step" in row][-1]


def read_evaluation(folder: pathlib.Path) -> dict[str, float]:
    """Returns the last evaluation of a run."""
    return [row for row in read_rows(folder) if METRICS[0] in row][-1]


def format_table(args: argparse.Namespace, rows: dict[str, list[dict[str, float]]]) -> str:
    """Returns the table in Markdown: means over seeds, and their range if there are several."""
    lines = [
        f"| trained, {args.minutes:g} minutes | {' | '.join(METRICS)} | steps | s/step |",
        "|---|" + "---|" * (len(METRICS) + 2),
    ]
    for preset, results in rows.items():
        cells = []
        for metric in METRICS:
            values = [row[metric] for row in results]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{sum(values) / len(values):.3f}{spread}")
        first = results[0]
        cells += [f"{first['steps']:,}", f"{first['seconds_per_step']:.2f}"]
        lines.append(f"| {preset} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
