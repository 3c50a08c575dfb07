"""Draw prepared data with its annotations, and training examples after augmentation, to check them.

  segjax show data/mine --out look
  segjax show data/mine --split val --num 16 --out look
  segjax show data/mine --out look --config sam/nuclei --config.data.augment.flip=True

Writes DIR/SPLIT.png: images, evenly spread over the split, with masks, boxes and class names.
Crowds are gray, and objects without a mask have a box alone. With --config also
DIR/SPLIT_examples.png: images and objects as the training of that experiment receives them, after
resizing, augmentation and its limits on objects.

DATA is a folder written by `segjax prepare`, "synthetic", or "tfds:NAME". Without DATA, it is that
of the experiment.
"""

import argparse
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from segjax.files import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("data", metavar="DATA", nargs="?", help="prepared data")
    parser.add_argument("--split", metavar="NAME", help="split to draw (default: the first)")
    parser.add_argument(
        "--num", type=int, default=9, metavar="N", help="number of images (default: 9)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--config",
        metavar="EXPERIMENT[:VARIANT]",
        help="draw training examples of this experiment too",
    )
    parser.set_defaults(passes_flags=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Writes the sheets.

    Raises:
      ValueError: Nothing to draw, or an unknown split.
      OSError: The data is missing.
    """
    if args.data is None and args.config is None:
        raise ValueError("nothing to draw: give a prepared folder, or --config=EXPERIMENT")
    if args.num < 1:
        raise ValueError(f"--num is the number of images, at least 1, got {args.num}")
    if rest and args.config is None:
        raise ValueError(f"unknown argument {rest[0]}")
    check_writable(args.out)
    config = _read_config(args, rest) if args.config else None
    data = _choose_data(args, config)

    from segjax.data.mixture import parse_mixture
    from segjax.files import write_atomic
    from segjax.images.encoding import encode_png

    out = pathlib.Path(args.out)
    # Records, of a mixture one sheet per source
    entries = parse_mixture(data)
    for number, entry in enumerate(entries):
        # A split may be a slice, such as train[:80%].
        name = re.sub(r"\W+", "_", entry.train_split).strip("_")
        name = f"{number}_{name}" if len(entries) > 1 else name
        sheet = draw_records(entry.replace_in(data), args.num)
        write_atomic(out / f"{name}.png", encode_png(sheet))
        print(out / f"{name}.png")
    # Training may refuse the data, and the first sheet helps to see why.
    if config is not None:
        sheet = draw_examples(config, args.num, title=f"training examples of {args.config}")
        name = "mixture" if len(entries) > 1 else name
        write_atomic(out / f"{name}_examples.png", encode_png(sheet))
        print(out / f"{name}_examples.png")
    return 0


def draw_records(data: dict[str, Any], count: int) -> Any:
    """Draws records of the split `data["train_split"]`, uint8 [H, W, 3]."""
    from segjax import viz
    from segjax.data.examples.place_objects import decode_record_image
    from segjax.data.splits import SpreadRecords, list_categories, open_split

    source = open_split(data, "train")
    shown = SpreadRecords(source, count)
    records = [shown[index] for index in range(len(shown))]
    names = list_categories(data | {"eval_split": data["train_split"]})
    percentiles = tuple(data.get("percentiles") or ()) or None
    return viz.draw_annotation_sheet(
        [decode_record_image(record, percentiles) for record in records],
        [_list_objects(record, names) for record in records],
        [_describe(record, names) for record in records],
        names,
        title=f"{data['source']}, {data['train_split']}: {len(source)} images",
    )


def draw_examples(config: Any, count: int, *, title: str) -> Any:
    """Draws the first training examples of an experiment, uint8 [H, W, 3]."""
    from segjax.tasks import make_task

    task = make_task(config)
    with task.batches("train", batch_size=count, seed=config.seed) as batches:
        return task.draw_batch(next(batches), count=count, title=title)


def _read_config(args: argparse.Namespace, rest: Sequence[str]) -> Any:
    """Returns the complete config of the experiment, on the data of the command line."""
    from segjax.cli.experiments import read_config
    from segjax.cli.overrides import apply_flags
    from segjax.tasks import complete_config

    config = complete_config(apply_flags(read_config(args.config), rest))
    if args.data is not None:
        config.data.source = args.data
        # The experiment may name splits that this data does not have.
        split = args.split or _first_split(config.data.to_dict(), config.data.train_split)
        config.data.train_split = config.data.eval_split = split
    elif args.split:
        config.data.train_split = args.split
    return config


def _choose_data(args: argparse.Namespace, config: Any) -> dict[str, Any]:
    """Returns the settings of the data to draw, see `segjax.data.splits.open_split`."""
    if config is not None:
        return config.data.to_dict()
    import dataclasses

    from segjax.tasks.settings import RecordSettings

    data = dataclasses.asdict(RecordSettings(source=args.data))
    return data | {"train_split": args.split or _first_split(data, "train")}


def _first_split(data: dict[str, Any], preferred: str) -> str:
    """Returns the preferred split if the data has it, else its first one."""
    from segjax.data.splits import SYNTHETIC, list_splits

    if data["source"] == SYNTHETIC:
        return preferred
    splits = list_splits(data["source"], data["tfds_dir"])
    return preferred if preferred in splits else splits[0]


def _list_objects(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Returns the objects of a record, as `draw_annotations` expects them."""
    import numpy as np

    from segjax.data.records import has_box_only
    from segjax.masks import decode_mask

    objects, size = record["objects"], (record["height"], record["width"])
    lone = has_box_only(objects)
    # An object without a mask is drawn with an empty one.
    masks = [decode_mask(rle, *size) & ~lone[index] for index, rle in enumerate(objects["rle"])]
    drawn = {
        "boxes": objects.get("annotated_box", objects["box"]),
        "masks": np.array(masks, bool).reshape(-1, *size),
        "crowd": objects["crowd"],
        "has_mask": ~lone,
        "keypoints": objects.get("keypoints"),
    }
    # One class needs no names.
    return drawn | ({"labels": objects["category"]} if len(names) > 1 else {})


def _describe(record: dict[str, Any], names: Sequence[str]) -> str:
    """Returns the caption of a record."""
    count = len(record["objects"]["rle"])
    parts = [record["image_id"][-24:], f"{record['width']} x {record['height']}"]
    parts += [f"{count} object{'s' * (count != 1)}"] if count else []
    parts += [names[record["label"]]] if "label" in record and names else []
    return ", ".join(parts)
