"""A wheel, built and used outside of the repository, as `pip install segjax` would be."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
WHEEL = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
EDITABLE = WHEEL.replace("build_wheel", "build_editable")


def build(code: str, folder: pathlib.Path) -> pathlib.Path:
    """Builds a wheel of a copy of the repository's tracked files, and returns its path."""
    copy = folder / "copy" / "segjax"
    if not copy.exists():
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, names):
            if name.startswith(("segjax/", "experiments/")) or "/" not in name:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes((ROOT / name).read_bytes())
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=copy, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return folder / run.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_wheel_has_the_experiments_and_trains_one_by_name(tmp_path):
    pytest.importorskip("setuptools", minversion="68")
    with zipfile.ZipFile(build(WHEEL, tmp_path)) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "installed")
    experiments = {path.name for path in (ROOT / "experiments" / "sam").glob("*.py")}
    packed = {name.split("/")[-1] for name in names if name.startswith("segjax/experiments/sam/")}
    assert packed == experiments and not [name for name in names if name.startswith("tests/")]
    command = ["train", "--config=sam/quickstart:debug", "--workdir=run", "--config.total_steps=2"]
    run = subprocess.run(
        [sys.executable, "-c", "import segjax.cli, sys; sys.exit(segjax.cli.main())", *command],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()


@pytest.mark.slow
def test_an_editable_installation_is_found_from_the_parent_of_the_clone(tmp_path):
    """There a folder named segjax, without __init__.py, lies in the working folder."""
    pytest.importorskip("setuptools", minversion="68")
    with zipfile.ZipFile(build(EDITABLE, tmp_path)) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        f"import site, sys; site.addsitedir({str(tmp_path / 'site')!r}); import segjax;"
        "print(segjax.__file__)"
    )
    # -S and -E: the test's own environment has a segjax too
    run = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code], cwd=tmp_path / "copy",
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(tmp_path / "copy" / "segjax" / "segjax" / "__init__.py")
