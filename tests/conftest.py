"""Every test sees 8 CPU devices, a compilation cache that outlives the run, and parsed flags (for grain's workers)."""

import os
import pathlib

import pytest
from absl import flags
from processes import prepare_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent

prepare_jax(8)
flags.FLAGS.mark_as_parsed()


def real_data_root() -> pathlib.Path:
    return pathlib.Path(os.environ.get("SEGJAX_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def real_data():
    """Folder of a real data set by name; skips, saying where it looked, when the data is not on this machine."""

    def find(name: str) -> pathlib.Path:
        folder = real_data_root() / name
        if not folder.is_dir():
            pytest.skip(f"real data {name!r} not found at {folder}; set SEGJAX_DATA to the folder that holds it")
        return folder

    return find
