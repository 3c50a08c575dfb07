"""Runs one measurement, in the process that `runner.run_item` starts.

Arguments: MODULE:FUNCTION, its options as JSON, and the file that receives a line of JSON per row.
"""

import importlib
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT / "tools"), str(ROOT), str(ROOT / "tests")]


def main() -> None:
    """Writes each row as soon as it is measured."""
    function, options, file = sys.argv[1:]
    module, name = function.split(":")
    measure = getattr(importlib.import_module(f"accelerator.{module}"), name)
    with open(file, "a") as rows:
        for row in measure(**json.loads(options)):
            rows.write(json.dumps(row) + "\n")
            rows.flush()


if __name__ == "__main__":
    main()
