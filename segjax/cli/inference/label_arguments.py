"""Arguments of the commands that name masks by a CLIP, and the files that they write."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CLIP = "clip_vit_b_16"


def add_label_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds --classes, --label-method, --min-score and those of a CLIP, for `load_labeler`."""
    group = parser.add_argument_group("names by CLIP")
    group.add_argument(
        "--classes", required=required, metavar="A,B,...", help="names to choose from, with commas"
    )
    add_clip_arguments(group)
    group.add_argument(
        "--label-method",
        choices=("auto", "attention", "crops"),
        default="auto",
        help="one pass for all masks, a crop for each, or crops for small ones (default: auto)",
    )
    group.add_argument(
        "--min-score",
        type=float,
        default=0.0,
        metavar="P",
        help="leave out names of lower probability (default: 0)",
    )


def add_clip_arguments(group: Any) -> None:
    """Adds --clip, --activation and --templates, for `load_clip`."""
    group.add_argument(
        "--clip",
        metavar="PATH",
        help=f"CLIP: a run, a file, or a published name (default: {CLIP}, downloaded once)",
    )
    group.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        help="activation of a CLIP whose file does not say it (open_clip's)",
    )
    group.add_argument(
        "--templates",
        metavar="NAME|TEXT|FILE",
        help="prompts: name, photo, seven, a text with {} or a file of them (default: photo, or "
        "name for a CLIP of synthetic captions)",
    )


def load_clip(args: argparse.Namespace) -> tuple[Any, str]:
    """Loads the CLIP of the arguments, and returns it with the templates of its prompts."""
    from segjax.inference.clip.clip import Clip

    overrides = {} if args.activation is None else {"activation": args.activation}
    clip = Clip.load(args.clip or CLIP, **overrides)
    default = "name" if clip.model.tokenizer == "captions" else "photo"
    return clip, args.templates or default


def load_labeler(args: argparse.Namespace) -> Any | None:
    """Loads the CLIP and encodes the names, or returns None without --classes.

    Raises:
      ValueError: another option without --classes, a name that is empty or occurs twice, a file
        that is no CLIP, and others as `MaskLabeler`.
    """
    if args.classes is None:
        given = [
            option
            for option, value in (
                ("--clip", args.clip),
                ("--templates", args.templates),
                ("--activation", args.activation),
            )
            if value is not None
        ]
        if given:
            raise ValueError(
                f"{', '.join(given)} without --classes; name the classes to choose from"
            )
        return None
    from segjax.inference.perception.labels import MaskLabeler
    from segjax.text.templates import parse_names

    parse_names(args.classes)  # before anything is downloaded
    clip, templates = load_clip(args)
    return MaskLabeler(
        clip,
        args.classes,
        templates=templates,
        method=args.label_method,
        min_score=args.min_score,
    )


def list_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns COCO's categories of class names, with ids from 1."""
    return [{"id": number, "name": name} for number, name in enumerate(names, 1)]


def draw_labels(
    image: np.ndarray, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> bytes:
    """Draws named masks over an image as a PNG. Masks without a name are left out.

    Args:
      image: uint8 [H, W, 3].
      rows: records of `label_records`.
      names: class names.
    """
    from segjax import viz
    from segjax.images.encoding import encode_png
    from segjax.inference.sam.mask_records import decode_record_mask

    named = [row for row in rows if row["category_id"]]
    return encode_png(
        viz.draw_named_masks(
            image,
            [decode_record_mask(row["segmentation"]) for row in named],
            [row["category_id"] - 1 for row in named],
            names,
            [row["category_score"] for row in named],
        )
    )


def describe_labels(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns how many masks got which name, such as "2 cup, 1 spoon, 3 without a name"."""
    counts: dict[str, int] = {}
    for row in rows:
        name = row["category_name"] or "without a name"
        counts[name] = counts.get(name, 0) + 1
    found = sorted(counts.items(), key=lambda item: (item[0] == "without a name", -item[1]))
    return ", ".join(f"{count} {name}" for name, count in found) or "no masks"


class LabelFile:
    """Named masks of images in COCO's format, collected image by image.

    Args:
      names: class names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._images: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []

    def add(
        self, number: Any, name: str, hw: tuple[int, int], records: Sequence[Mapping[str, Any]]
    ) -> None:
        """Adds an image.

        Args:
          number: id of the image.
          name: name of its file.
          hw: (height, width) in pixels.
          records: of `label_records`. Their probability becomes "score".
        """
        self._images.append({"id": number, "file_name": name, "height": hw[0], "width": hw[1]})
        kept = ("segmentation", "bbox", "area", "predicted_iou", "stability_score")
        for row in records:
            self._rows.append(
                {
                    "id": len(self._rows) + 1,
                    "image_id": number,
                    "category_id": row["category_id"],
                    "score": row["category_score"],
                    "iscrowd": 0,
                    **{key: row[key] for key in kept if key in row},
                }
            )

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """Annotations of all masks. Those without a name have the category id 0."""
        return self._rows

    def write(self, path: pathlib.Path) -> str:
        """Writes the masks that have a name, and returns a line about the file."""
        from segjax.files import write_json

        named = [row for row in self._rows if row["category_id"]]
        categories = list_categories(self._names)
        content = {"images": self._images, "annotations": named, "categories": categories}
        write_json(path, content)
        unnamed = len(self._rows) - len(named)
        left = f", {unnamed} without a name are left out" if unnamed else ""
        return f"{path}  {len(named)} masks{left}"
