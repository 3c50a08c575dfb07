"""Print what each model of an annotated folder needed: clicks and seconds per object, and more.

  segjax engine report photos/

Columns: images and objects of each model, objects per image, share of objects that were prefilled,
seconds and clicks per object that a person drew, proposals that a person corrected, and the share
of these whose IoU with the correction is above 0.9 and 0.75 (94 % and 97 % in SAM's paper).

File: FOLDER/report.json
"""

import argparse
import pathlib
from collections.abc import Sequence

from segjax.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("folder", metavar="FOLDER", help="annotated folder of images")


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Prints the table and writes the file.

    You can skip this function: the work is in `segjax.engine.report`.

    Raises:
      OSError: a folder that cannot be read or written.
    """
    folder = pathlib.Path(args.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no annotated folder: {folder}")
    from segjax.engine.report import format_report, make_report

    rows = make_report(folder)
    if not rows:
        print(f"no object is committed in {folder}; annotate some with segjax serve")
        return 0
    print(format_report(rows))
    write_json(folder / "report.json", {"models": rows})
    print(folder / "report.json")
    return 0
