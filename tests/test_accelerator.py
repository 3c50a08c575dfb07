"""tools/accelerator: a rehearsal in debug sizes, failures, time limits and resumption."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

from accelerator import catalog, packages, page, runner  # noqa: E402
from accelerator.batches import draw_batch  # noqa: E402

from segjax.cli.experiments import read_config  # noqa: E402
from segjax.cli.overrides import apply_flags  # noqa: E402
from segjax.tasks import make_task  # noqa: E402

# Of the default suite. All others run with `-m slow`, because their programs compile for minutes.
QUICK = ("device", "rates", "encoder", "mae_step", "decoder")
# In place of child.py: does what the name of the function says.
STAND_IN = """
import sys, time
function, options, rows = sys.argv[1:]
with open(rows, "a") as file:
    if function != "fails":
        print('{"operation": "product", "side": "jax", "rate": 1.5}', file=file, flush=True)
if function == "errs":
    with open(rows, "w") as file:
        print('{"operation": "product", "error": "out of memory"}', file=file)
if function == "hangs":
    time.sleep(60)
if function == "fails":
    sys.exit("ValueError: no such kernel")
"""


def rehearse(out, *arguments):
    """Runs the program as people do, in debug sizes."""
    command = [
        sys.executable,
        str(ROOT / "tools" / "accelerator"),
        "--rehearsal",
        "--out",
        str(out),
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def read_items(out):
    document = json.loads((out / "results.json").read_text())
    assert document["rehearsal"] is True
    return document["items"]


def check_items(out, names):
    """Checks that every item has rows with positive numbers, or was left out for a reason."""
    items = read_items(out)
    assert items.keys() == names
    for name, item in items.items():
        assert item["status"] in ("done", "skipped"), (name, item)
        assert item["rows"] or item["error"], name
        for row in item["rows"]:
            assert "error" not in row or row["side"] == "PyTorch", (name, row)
            assert row.get("ms", 1) > 0 and row.get("images_per_second", 1) > 0


def test_a_rehearsal_measures_in_debug_sizes_and_goes_on_where_it_stopped(tmp_path):
    done = rehearse(tmp_path, "--only", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    check_items(tmp_path, {item.name for item in catalog.list_items() if item.table in QUICK})
    text = (tmp_path / "results.md").read_text()
    assert "A rehearsal in debug sizes" in text and "| sam_debug | segjax, xla | 1 |" in text
    assert "Not measured yet: `python tools/accelerator --out runs/accelerator --only" in text

    began = time.monotonic()
    again = rehearse(tmp_path, "--only", "device", "rates", "encoder B, segjax")
    assert again.returncode == 0 and time.monotonic() - began < 5
    assert again.stdout.startswith("done     3\n")  # nothing has run


@pytest.mark.slow
def test_a_rehearsal_of_everything(tmp_path):
    done = rehearse(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    check_items(tmp_path, {item.name for item in catalog.list_items()})


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Returns a function that runs stand-ins for items, and their results."""
    child = tmp_path / "child.py"
    child.write_text(STAND_IN)
    monkeypatch.setattr(runner, "_CHILD", child)

    def run(functions, *, limit=100.0, timeout=30.0, retry=False, **options):
        results = runner.Results(tmp_path / "out")
        items = [catalog.Item(name, "rates", name, timeout, **options) for name in functions]
        runner.run_items(results, items, seconds=limit, retry=retry)
        return {name: item["status"] for name, item in results.items.items()}, results.items

    return run


def test_a_failure_is_a_row_and_what_was_measured_before_it_is_kept(stand_in, tmp_path):
    states, items = stand_in(["fails", "works", "errs"])
    assert states == {"fails": "failed", "works": "done", "errs": "failed"}
    assert items["fails"]["error"] == "ValueError: no such kernel (exit status 1)"
    assert items["works"]["rows"] == [{"operation": "product", "side": "jax", "rate": 1.5}]
    states, items = stand_in(["hangs"], timeout=1.0)
    assert states["hangs"] == "failed" and items["hangs"]["error"] == "not finished within 1 s"
    assert len(items["hangs"]["rows"]) == 1  # the row before the timeout
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["items"] == items
    line = page.format_table("rates", catalog.TABLES["rates"], [], items)
    assert line.startswith("## Rates of the device")


def test_the_time_limit_leaves_items_out_and_a_later_run_goes_on(stand_in, monkeypatch):
    assert stand_in(["works", "errs"], limit=runner.FEWEST_SECONDS - 1)[0] == {}
    monkeypatch.setattr(runner, "FEWEST_SECONDS", 0.1)
    assert stand_in(["works", "hangs", "errs"], limit=2.0)[0] == {"works": "done"}
    before = stand_in(["works"])[1]["works"]
    states, items = stand_in(["works", "errs"])
    assert states == {"works": "done", "errs": "failed"} and items["works"] == before
    stand_in(["works"], retry=True)
    assert stand_in(["works"])[1]["works"] == before


def test_sigterm_ends_the_item_in_progress(tmp_path):
    program = tmp_path / "program.py"
    child = tmp_path / "child.py"
    child.write_text(STAND_IN)
    program.write_text(f"""
import importlib.util, pathlib, sys
sys.path[:0] = [{str(ROOT / "tools" / "accelerator")!r}]
path = {str(ROOT / "tools" / "accelerator" / "__main__.py")!r}
spec = importlib.util.spec_from_file_location("program", path)
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)
program.runner._CHILD = pathlib.Path({str(child)!r})
items = [program.catalog.Item("hangs", "rates", "hangs", 60)]
program.run(program.parse_arguments(["--out", {str(tmp_path / "out")!r}]), items)
""")
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.DEVNULL)
    find = lambda: [pid for pid in os.listdir("/proc") if pid.isdigit() and is_run_of(pid, child)]
    until = time.monotonic() + 20
    while not find() and time.monotonic() < until:
        time.sleep(0.05)
    assert find()
    process.terminate()
    assert process.wait(10) == 143 and not find()


def is_run_of(pid, script):
    try:
        return str(script).encode() in pathlib.Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return False


def test_a_missing_module_leaves_an_item_out_and_says_so(stand_in):
    states, items = stand_in(["works"], needs=("torch_of_nobody",))
    assert states == {"works": "skipped"}
    assert items["works"]["error"] == "torch_of_nobody not installed"


def test_results_of_another_device_or_kind_are_refused(tmp_path, monkeypatch):
    results = runner.Results(tmp_path)
    row = {"what": "device", "value": "1 x NVIDIA H100"}
    results.items["device"] = {"status": "done", "seconds": 1, "date": "2026-12-01", "rows": [row]}
    results.save()
    other = {"status": "done", "rows": [{"what": "device", "value": "1 x cpu"}]}
    monkeypatch.setattr(runner, "run_item", lambda *args, **options: other)
    with pytest.raises(ValueError, match="'1 x NVIDIA H100', and this machine has '1 x cpu'"):
        runner.run_items(runner.Results(tmp_path), [], seconds=60, retry=False)
    with pytest.raises(ValueError, match="is of a real run, and this is a rehearsal"):
        runner.Results(tmp_path, rehearsal=True)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a file of results"):
        runner.Results(tmp_path)


def test_wrong_arguments_end_with_status_2(tmp_path):
    for arguments, text in (
        (["--only", "encodr"], "'encodr' matches no item; expected a table (device, rates"),
        (["--minutes", "0"], "--minutes is 0; expected more than 0"),
        (["--page", "none.json"], "'none.json' cannot be read"),
    ):
        failed = rehearse(tmp_path, *arguments)
        assert failed.returncode == 2 and text in failed.stderr


def test_the_real_configs_of_all_training_items_are_valid():
    items = [item for item in catalog.list_items() if item.function == "training:train"]
    assert len(items) >= 12
    for item in items:
        config = apply_flags(read_config(item.options["experiment"]), item.options["flags"])
        batch = draw_batch(make_task(config).batch_shapes(1))
        assert batch["weight"].tolist() == [1.0]
        if "masks" in batch:
            assert 0 < batch["masks"][batch["valid"]].mean() < 1
            assert np.isfinite(batch["boxes"]).all()


def test_the_page_in_the_documentation_is_that_of_the_results():
    file = ROOT / "docs" / "results" / "accelerators.json"
    document = json.loads(file.read_text()) if file.exists() else {}
    text = (ROOT / "docs" / "results" / "accelerators.md").read_text()
    assert text == page.format_page(document) + "\n"
    for name, table in catalog.TABLES.items():
        assert f"## {table.title}\n" in text and f"--only {name}`" in text


def test_the_packages_to_carry_are_those_of_setup_cfg(monkeypatch):
    names = packages.list_requirements()
    assert "jax >=0.10, <0.13" in names and len(names) > 15
    found = packages.find_version
    monkeypatch.setattr(
        packages, "find_version", lambda name: None if "grain" in name else found(name)
    )
    text = packages.describe()
    assert (
        "Missing: grain>=0.2.10" in text and f"--python-version 3.{sys.version_info.minor}" in text
    )
    assert os.linesep not in text.splitlines()[0]
