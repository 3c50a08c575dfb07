"""Runs items one after another, each in its own process, and keeps their results.

Standard library only, like the catalog.
"""

import contextlib
import datetime
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from accelerator import page
from accelerator.catalog import Item

FEWEST_SECONDS = 15.0  # an item does not begin with less time than this
_REPORTED = 400  # characters of an error
_CHILD = pathlib.Path(__file__).resolve().parent / "child.py"
# Of a rehearsal: its programs are compiled for seconds of use.
_REHEARSAL = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


class Results:
    """The results of a folder: results.json, and the page of them.

    Args:
      folder: Folder of the files. It is made if it does not exist.
      rehearsal: Whether items run in debug sizes on a CPU.

    Attributes:
      items: Name of an item -> its result. "status" is "done", "failed" or "skipped".

    Raises:
      ValueError: The folder holds results of the other kind, or a file that is no such results.
    """

    def __init__(self, folder: pathlib.Path, *, rehearsal: bool = False) -> None:
        self.folder, self.rehearsal = folder, rehearsal
        self.items: dict[str, dict[str, Any]] = {}
        file = folder / "results.json"
        if not file.exists():
            return
        try:
            document = json.loads(file.read_text())
            self.items, before = document["items"], document["rehearsal"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is not a file of results ({error}); choose another --out, or delete it"
            ) from None
        if before != rehearsal:
            raise ValueError(
                f"{file} is {'of a rehearsal' if before else 'of a real run'}, and this is "
                f"{'a rehearsal' if rehearsal else 'a real run'}; choose another --out"
            )

    def document(self) -> dict[str, Any]:
        """Returns what results.json holds."""
        return {"rehearsal": self.rehearsal, "items": self.items}

    def save(self) -> None:
        """Writes results.json and results.md."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "results.json", json.dumps(self.document(), indent=1))
        _write(self.folder / "results.md", page.format_page(self.document()))


def _write(file: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    new = file.with_suffix(file.suffix + ".new")
    new.write_text(text + "\n")
    new.replace(file)


def run_items(results: Results, items: list[Item], *, seconds: float, retry: bool) -> None:
    """Runs the items that have no result yet, until the time is over.

    Args:
      results: Receives each result and is saved after it.
      items: The items, in order.
      seconds: Time limit. An item that the limit cuts off has no result.
      retry: Whether items that failed run again.
    """
    end = time.monotonic() + seconds
    seen: dict[str, str] = {}
    check_device(results)
    results.save()
    for item in items:
        result = find_reason_to_skip(item, seen if results.rehearsal else None)
        kept = ("done",) if retry else ("done", "failed")
        if results.items.get(item.name, {}).get("status") in kept:
            continue
        left = end - time.monotonic()
        if result is None and left < FEWEST_SECONDS:
            print(f"the time limit leaves out {item.name} and what follows", flush=True)
            return
        result = result or run_item(item, min(item.seconds, left), rehearsal=results.rehearsal)
        if result["status"] == "stopped" and left < item.seconds:
            print(f"the time limit cut off {item.name}", flush=True)
            return
        if result["status"] == "stopped":
            text = f"not finished within {item.seconds:.0f} s"
            result |= {"status": "failed", "error": text}
        results.items[item.name] = result
        results.save()
        note = f"  {result['error']}" if "error" in result else ""
        print(f"{result['status']:<8} {result['seconds']:>5.0f} s  {item.name}{note}", flush=True)


def find_reason_to_skip(item: Item, seen: dict[str, str] | None) -> dict[str, Any] | None:
    """Returns the result of an item that need not run, or None.

    Args:
      item: The item.
      seen: Key -> name of the items so far, of which a rehearsal runs equal ones once. None: none.
    """
    missing = [name for name in item.needs if importlib.util.find_spec(name) is None]
    reason = f"{' and '.join(missing)} not installed" if missing else ""
    if seen is not None and not reason:
        options = {**item.options, **item.rehearsal}
        key = json.dumps([item.function, options], sort_keys=True)
        if key in seen:
            reason = f"in debug size the same as {seen[key]}"
        seen.setdefault(key, item.name)
    return {"status": "skipped", "seconds": 0.0, "error": reason, "rows": []} if reason else None


def run_item(item: Item, seconds: float, *, rehearsal: bool) -> dict[str, Any]:
    """Runs an item in a new process.

    Args:
      item: The item.
      seconds: Time after which the process and its children are killed.
      rehearsal: Whether it runs in debug sizes on a CPU.

    Returns:
      "status" ("done", "failed" or "stopped"), "date", "seconds", "rows", and perhaps "error". Rows
      that were measured before a failure are kept.
    """
    options = {**item.options, **(item.rehearsal if rehearsal else {})}
    environment = {**os.environ, **(_REHEARSAL if rehearsal else {})}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, log = pathlib.Path(folder, "rows"), pathlib.Path(folder, "log")
        command = [sys.executable, str(_CHILD), item.function, json.dumps(options), str(rows)]
        with log.open("w") as output:
            # A session of its own, so that compilers which it starts end with it.
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
            try:
                status = "done" if process.wait(seconds) == 0 else "failed"
            except subprocess.TimeoutExpired:
                status = "stopped"
            finally:
                _kill_group(process)
        lines = rows.read_text().splitlines() if rows.exists() else []
        text = log.read_text(errors="replace").strip()
    result: dict[str, Any] = {
        "status": status,
        "date": f"{datetime.date.today():%Y-%m-%d}",
        "seconds": round(time.monotonic() - began, 1),
        "rows": [json.loads(line) for line in lines if line.endswith("}")],
    }
    if status == "failed":
        last = text.splitlines()[-1] if text else "no output"
        result["error"] = f"{last[-_REPORTED:]} (exit status {process.returncode})"
    elif result["rows"] and all("error" in row for row in result["rows"]):
        result |= {"status": "failed", "error": result["rows"][0]["error"]}
    return result


def _kill_group(process: subprocess.Popen) -> None:
    """Ends a process and everything that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def check_device(results: Results) -> None:
    """Raises ValueError if the results are of another device than this machine's."""
    rows = results.items.get("device", {}).get("rows", [])
    before = next((row["value"] for row in rows if row.get("what") == "device"), None)
    if before is None or results.rehearsal:
        return
    probe = run_item(Item("", "device", "device:identify", 60), 60, rehearsal=False)
    now = next((row["value"] for row in probe["rows"]), probe.get("error", "no device"))
    if now != before:
        raise ValueError(
            f"{results.folder} holds results of {before!r}, and this machine has {now!r}; choose "
            "another --out"
        )
