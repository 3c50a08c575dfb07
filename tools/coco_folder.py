"""Writes prepared data as a folder in COCO's format, for programs that read nothing else.

    .venv/bin/python tools/coco_folder.py data/nuclei data/nuclei_coco \\
      train=stage1_train val=stage1_test

The folder has one annotation file per split, with masks as run lengths. Image files are copied
unchanged. `segjax prepare coco` reads the folder.
"""

import argparse
import pathlib

from segjax.data.splits import describe_categories, open_split
from segjax.evaluation.coco_format import build_coco_ground_truth
from segjax.files import write_atomic, write_json

JPEG = b"\xff\xd8"  # first bytes of a JPEG file


def parse_split(text: str) -> tuple[str, str]:
    """Parses NEW=SPLIT into the new name and the split."""
    new, _, split = text.partition("=")
    if not new or not split:
        raise argparse.ArgumentTypeError(f"{text!r} is not NEW=SPLIT, such as train=stage1_train")
    return new, split


def main() -> None:
    """Writes the folder and prints one line per split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder of `segjax prepare`")
    parser.add_argument("out", type=pathlib.Path, help="folder to write")
    parser.add_argument(
        "splits",
        nargs="+",
        type=parse_split,
        metavar="NEW=SPLIT",
        help="new name of a split, and its name in the data",
    )
    args = parser.parse_args()
    for name, split in args.splits:
        data = {"source": args.data, "eval_split": split}
        try:
            source = open_split(data, "eval")
        except (ValueError, FileNotFoundError) as error:
            parser.error(str(error))
        # Annotations
        records = (source[index] for index in range(len(source)))
        ground_truth = build_coco_ground_truth(records, **describe_categories(data))
        for annotation in ground_truth["annotations"]:
            if annotation.pop("box_only", 0):
                annotation["segmentation"] = []
        # Images
        for index, image in enumerate(ground_truth["images"]):
            content = source[index]["image"]
            suffix = ".jpg" if content.startswith(JPEG) else ".png"
            image["file_name"] = f"{image['id']}{suffix}"
            write_atomic(args.out / "images" / name / image["file_name"], content)
        annotations = args.out / "annotations" / f"instances_{name}.json"
        write_json(annotations, ground_truth, indent=None)
        images, objects = len(ground_truth["images"]), len(ground_truth["annotations"])
        print(f"{args.out}: {name}, {images} images, {objects} objects")


if __name__ == "__main__":
    main()
