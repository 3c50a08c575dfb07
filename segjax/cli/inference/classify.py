"""Classify images by names, with a CLIP and without training.

  segjax classify photo.jpg --classes "cup,spoon,table" --clip clip_vit_b_16
  segjax classify *.jpg --classes "cup,spoon" --clip runs/clip --out out
  segjax classify --folders imagenet/val --clip ViT-B-16.pt --templates seven --out out

--folders measures the accuracy on a folder of one folder for each class, whose names are the
classes. --names is a JSON file {"folder": "name"} for folders that are called otherwise, such as
n01440764.

Files in DIR: classes.json, with the names and probabilities of each image, or with --folders the
accuracy: "top1", "top5" and "per_class".
"""

import argparse
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from segjax.cli.inference.label_arguments import add_clip_arguments, load_clip
from segjax.files import check_writable, read_json_object, write_json

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="PNG, JPEG or TIFF files")
    parser.add_argument("--classes", metavar="A,B,...", help="names to choose from, with commas")
    parser.add_argument("--folders", metavar="DIR", help="folder of one folder for each class")
    parser.add_argument("--names", metavar="FILE", help="names of the folders, a JSON object")
    add_clip_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="folder for classes.json (default: none)")


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Classifies images or measures the accuracy, and prints it.

    You can skip this function: the math is in `segjax.inference.clip.clip`.

    Raises:
      ValueError: arguments that do not fit together, or a folder without images.
      OSError: a file that cannot be read or written.
    """
    if bool(args.folders) == bool(args.images) or bool(args.images) != bool(args.classes):
        raise ValueError("give images and --classes, or --folders DIR alone")
    if args.names and not args.folders:
        raise ValueError("--names without --folders")
    if args.out:
        check_writable(args.out)
    from segjax.cli import keep_compiled_programs

    keep_compiled_programs()
    result = _measure_folders(args) if args.folders else _classify_images(args)
    if args.out:
        path = pathlib.Path(args.out) / "classes.json"
        write_json(path, result)
        print(path)
    return 0


def _classify_images(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the most probable names of each image, and returns all."""
    from segjax.cli.inference.image_arguments import list_image_names, read_image
    from segjax.text.templates import parse_names

    parse_names(args.classes)  # before anything is loaded
    list_image_names(args.images)
    clip, templates = load_clip(args)
    found = {}
    for file in args.images:
        names, scores = clip.classify(read_image(file), args.classes, templates=templates)
        found[str(file)] = dict(zip(names, map(float, scores), strict=True))
        best = ", ".join(
            f"{name} {score:.3f}" for name, score in list(zip(names, scores, strict=True))[:_SHOWN]
        )
        print(f"{file}  {best}")
    return found


def _measure_folders(args: argparse.Namespace) -> dict[str, float]:
    """Prints and returns the accuracy on a folder of class folders."""
    import numpy as np

    from segjax.evaluation.classification import ClassificationScores
    from segjax.images.opening import ImageError

    classes = list_class_folders(args.folders, args.names)
    clip, templates = load_clip(args)
    vectors = clip.class_vectors([name for name, _ in classes], templates=templates)
    scores, broken = ClassificationScores(len(classes)), []
    for label, (_, files) in enumerate(classes):
        for start in range(0, len(files), clip.batch):
            images = []
            for file in files[start : start + clip.batch]:
                try:
                    images.append(_read(file))
                except ImageError as error:
                    broken.append(str(error))
            if images:
                logits = clip.scale * clip.encode_image(images) @ vectors.T
                own = logits[:, label]
                losses = np.logaddexp.reduce(logits, axis=1) - own
                ones = np.ones(len(images))
                scores.add(logits, np.full(len(images), label), losses, ones)
    if not scores.count:
        raise ValueError(f"{args.folders}: no image can be read, such as {broken[0]}")
    metrics = scores.summarize() | {"images": float(scores.count), "unreadable": float(len(broken))}
    for name, value in metrics.items():
        print(f"{name:<12}{value:>12.4f}")
    if broken:
        print(f"{len(broken)} images could not be read and are left out, such as {broken[0]}")
    return metrics


def _read(file: pathlib.Path) -> Any:
    from segjax.images.decoding import decode_image

    return decode_image(file.read_bytes(), name=str(file), notes=[])


def list_class_folders(folder: str, names: str | None) -> list[tuple[str, list[pathlib.Path]]]:
    """Lists the classes of a folder: (name, image files) of each folder in it with images.

    Args:
      folder: folder of class folders.
      names: JSON file {"folder": "name"}, or None to take the folders' names. Underscores become
        spaces.

    Raises:
      ValueError: no folder with images, a folder without a name, or a name that occurs twice.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise ValueError(f"--folders {folder} is no folder")
    given = read_json_object(names, "give {'folder': 'name'}") if names else None
    found = [(path.name, list(_list_images(path))) for path in sorted(root.iterdir())]
    found = [(name, files) for name, files in found if files]
    if len(found) < 2:
        raise ValueError(
            f"{folder} has {len(found)} folders with images; expected one for each of several "
            "classes"
        )
    if given is not None:
        missing = [name for name, _ in found if not isinstance(given.get(name), str)]
        if missing:
            raise ValueError(f"{names} has no name for the folder {missing[0]!r}")
        found = [(given[name], files) for name, files in found]
    else:
        found = [(name.replace("_", " "), files) for name, files in found]
    from segjax.text.templates import parse_names

    parse_names([name for name, _ in found])
    return found


def _list_images(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    if folder.is_dir():
        yield from sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
        )
