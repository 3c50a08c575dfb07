"""Executes notebooks/*.py and writes them as .ipynb files with their outputs.

    python tools/run_notebooks.py DIR [NAME ...]

Prints the seconds that each took. The sources in notebooks/ hold no outputs.
"""

import argparse
import pathlib
import sys
import time
from typing import Any

SOURCES = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
TIMEOUT = 300  # seconds per cell


def execute(source: pathlib.Path, folder: pathlib.Path) -> Any:
    """Executes a notebook in a folder and returns it with its outputs.

    Args:
      source: py:percent file.
      folder: working directory of its kernel.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(source)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources).execute()
    return notebook


def main() -> None:
    """Executes the notebooks of the command line, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="DIR")
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 02_click")
    args = parser.parse_args()
    import jupytext

    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for source in sorted(SOURCES.glob("*.py")):
        if args.names and source.stem not in args.names:
            continue
        start = time.time()
        jupytext.write(execute(source, out), out / f"{source.stem}.ipynb")
        print(f"{source.stem}: {time.time() - start:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
