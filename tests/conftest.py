"""Every test sees 8 CPU devices, a compilation cache that outlives the run, and parsed flags (for
grain's workers).
"""

import gc
import logging
import os
import pathlib

import pytest
from absl import flags
from processes import prepare_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Files that take longest (10 s and more), longest first: begun last, one of them would keep one
# core busy alone.
LONGEST = (
    "test_experiments.py",
    "training/test_loop.py",
    "prompting/test_simulation.py",
    "tasks/test_promptable.py",
    "tasks/test_many_devices.py",
    "tasks/test_detection.py",
    "inference/test_predict_images.py",
    "ops/test_roi_align.py",
    "training/test_two_processes.py",
    "models/test_mae.py",
    "inference/test_detector.py",
    "training/test_checkpoints.py",
    "data/test_loader.py",
    "test_lost_process.py",
)

prepare_jax(8)
flags.FLAGS.mark_as_parsed()


def pytest_collection_finish():
    """Exempts imported objects from garbage collection: 6 to 12 % of the tests' time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_collection_modifyitems(items):
    positions = {ROOT / "tests" / name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: positions.get(item.path, len(positions)))


@pytest.fixture(autouse=True)
def restore_log():
    """Undoes what `segjax train` sets: a handler that writes to the standard error of one test."""
    logger = logging.getLogger("segjax")
    before = logger.level, list(logger.handlers), logger.propagate
    yield
    level, logger.handlers[:], logger.propagate = before
    logger.setLevel(level)


def real_data_root() -> pathlib.Path:
    return pathlib.Path(os.environ.get("SEGJAX_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def real_data():
    """Returns a function that finds a real data set by name, and skips the test without it."""

    def find(name: str) -> pathlib.Path:
        folder = real_data_root() / name
        if not folder.is_dir():
            pytest.skip(
                f"real data {name!r} not found at {folder}; set SEGJAX_DATA to its parent folder"
            )
        return folder

    return find
