"""Writes prepared data as a folder in COCO's format: pictures, and an annotation file a split, masks as run lengths.

    .venv/bin/python tools/coco_folder.py data/nuclei data/nuclei_coco train=stage1_train val=stage1_test

For programs that read nothing else; `segjax prepare coco` reads it back. Pictures keep their bytes.
"""

import argparse
import pathlib

from segjax.data.splits import describe_categories, open_split
from segjax.evaluation.coco_format import build_coco_ground_truth
from segjax.files import write_json, write_atomic

JPEG = b"\xff\xd8"  # how such a file begins


def renamed(text: str) -> tuple[str, str]:
    """(new name, split) of NEW=SPLIT."""
    new, _, split = text.partition("=")
    if not new or not split:
        raise argparse.ArgumentTypeError(f"{text!r} is not NEW=SPLIT, such as train=stage1_train")
    return new, split


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a folder that `segjax prepare` wrote")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument(
        "splits",
        nargs="+",
        type=renamed,
        metavar="NEW=SPLIT",
        help="a split's new name, and the data's own",
    )
    args = parser.parse_args()
    for name, split in args.splits:
        data = {"source": args.data, "eval_split": split}
        try:
            records = open_split(data, "eval")
        except (ValueError, FileNotFoundError) as error:
            parser.error(str(error))
        truth = build_coco_ground_truth((records[index] for index in range(len(records))), **describe_categories(data))
        for index, image in enumerate(truth["images"]):
            picture = records[index]["image"]
            suffix = ".jpg" if picture.startswith(JPEG) else ".png"
            image["file_name"] = f"{image['id']}{suffix}"
            write_atomic(args.out / "images" / name / image["file_name"], picture)
        write_json(args.out / "annotations" / f"instances_{name}.json", truth, indent=None)
        print(
            f"{args.out}: {name}, {len(truth['images'])} pictures, {len(truth['annotations'])} objects"
        )


if __name__ == "__main__":
    main()
