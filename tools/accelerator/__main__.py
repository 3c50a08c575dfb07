"""Measures everything that people ask of an accelerator, in order of value.

    python tools/accelerator --out runs/accelerator                   # on the accelerator
    python tools/accelerator --out runs/accelerator --minutes 9       # stops in time
    python tools/accelerator --out runs/rehearsal --rehearsal         # debug sizes on a CPU
    python tools/accelerator --list                                   # items, tables, timeouts
    python tools/accelerator --packages                               # on a machine without network

Every item runs in a process of its own with a timeout. An item that fails or runs out of memory is
a row of its table, and the next item begins. results.json and results.md are written anew after
every item. The same command goes on where the last one stopped: what is done or has failed is not
run again (--retry runs the failures again). Nothing else should run meanwhile.

Sides of PyTorch need torch and transformers, segment-anything or torchvision. Without them their
rows say so.

Exit status: 0 if every chosen item has a result, 1 if the time limit left some out or some failed,
2 for wrong arguments.
"""

import argparse
import json
import pathlib
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# This file's own folder is replaced: its modules are those of the package `accelerator`.
sys.path[:1] = [str(ROOT / "tools"), str(ROOT), str(ROOT / "tests")]

from accelerator import catalog, packages, page, runner  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Runs what the command line asks for. Returns the exit status."""
    args = parse_arguments(argv)
    if args.packages:
        print(packages.describe())
        return 0
    try:
        items = choose_items(args.only)
        if args.list:
            print(describe_items(items))
            return 0
        if args.page is not None:
            print(page.format_page(read_results(args.page)))
            return 0
        if args.out is None:
            raise ValueError("--out is missing; expected a folder for the results")
        if args.minutes <= 0:
            raise ValueError(f"--minutes is {args.minutes:g}; expected more than 0")
        return run(args, items)
    except ValueError as error:
        print(f"accelerator: {error}", file=sys.stderr)
        return 2


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python tools/accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--minutes", type=float, default=25.0, metavar="N", help="time limit (default 25)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT",
        help="tables, or parts of the names of items",
    )  # fmt: skip
    parser.add_argument("--retry", action="store_true", help="run failed items again")
    parser.add_argument("--rehearsal", action="store_true", help="debug sizes on a CPU")
    parser.add_argument("--list", action="store_true", help="list the items and end")
    parser.add_argument(
        "--packages", action="store_true", help="list the packages to carry to this machine and end"
    )
    parser.add_argument(
        "--page", nargs="?", const="", metavar="JSON",
        help="print the page of a results.json, or of no results, and end",
    )  # fmt: skip
    return parser.parse_args(argv)


def choose_items(texts: list[str]) -> list[catalog.Item]:
    """Returns the items that one of the texts names, or all.

    Raises:
      ValueError: A text names nothing.
    """
    items = catalog.list_items()
    chosen: set[str] = set()
    for text in texts:
        # The name of a table is not also a part of a name.
        matches = [
            item.name
            for item in items
            if (text == item.table if text in catalog.TABLES else text in item.name)
        ]
        chosen.update(matches)
        if not matches:
            raise ValueError(
                f"--only {text!r} matches no item; expected a table ({', '.join(catalog.TABLES)}) "
                "or a part of a name that --list shows"
            )
    return [item for item in items if not texts or item.name in chosen]


def read_results(file: str) -> dict:
    """Reads a results.json. "" stands for no results.

    Raises:
      ValueError: The file does not exist or is no JSON.
    """
    try:
        return json.loads(pathlib.Path(file).read_text()) if file else {}
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--page {file!r} cannot be read ({error}); expected a results.json that --out wrote"
        ) from None


def describe_items(items: list[catalog.Item]) -> str:
    """Returns a line per item, in the order in which they run."""
    lines = [
        f"{item.name:<38} {item.table:<14} {item.seconds:>4.0f} s  {' '.join(item.needs)}".rstrip()
        for item in items
    ]
    total = sum(item.seconds for item in items)
    return "\n".join([*lines, f"{len(items)} items, at most {total / 60:.0f} minutes"])


def run(args: argparse.Namespace, items: list[catalog.Item]) -> int:
    """Runs the items and returns the exit status."""
    # Schedulers and `timeout` send SIGTERM: the item in progress must end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = runner.Results(args.out, rehearsal=args.rehearsal)
    runner.run_items(results, items, seconds=60 * args.minutes, retry=args.retry)
    states = [results.items.get(item.name, {}).get("status", "") for item in items]
    for state in ("done", "failed", "skipped", ""):
        print(f"{state or 'not run':<8} {states.count(state)}")
    print(results.folder / "results.md")
    return 0 if all(state in ("done", "skipped") for state in states) else 1


if __name__ == "__main__":
    sys.exit(main())
