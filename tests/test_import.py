"""The cost of `import segjax`, measured in a fresh process."""

import json
import subprocess
import sys

import pytest

import segjax

NAMES = [name for name in segjax.__all__ if name != "__version__"]
MEASURE = """
import json, sys, time

def loaded():
    started = parsed = False
    if "jax" in sys.modules:
        from jax._src import xla_bridge
        started = xla_bridge.backends_are_initialized()
    if "absl.flags" in sys.modules:
        parsed = sys.modules["absl.flags"].FLAGS.is_parsed()
    modules = [name for name in ("jax", "tensorflow", "torch", "matplotlib") if name in sys.modules]
    return modules + ["a device"] * started + ["parsed flags"] * parsed

start = time.perf_counter()
import segjax
seconds, found = time.perf_counter() - start, {"segjax": loaded()}
for name in sys.argv[1:]:
    getattr(segjax, name)
    found[name] = loaded()
print(json.dumps([seconds, found]))
"""


@pytest.fixture(scope="module")
def measured():
    """Returns the seconds of the import, and the modules loaded after it and after each name."""
    run = subprocess.run([sys.executable, "-c", MEASURE, *NAMES], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_importing_segjax_is_fast_and_loads_nothing(measured):
    seconds, found = measured
    assert seconds < 1.5 and found["segjax"] == []


@pytest.mark.parametrize("name", NAMES)
def test_using_a_name_starts_no_device_and_loads_no_tensorflow(measured, name):
    assert set(measured[1][name]) <= {"jax", "matplotlib"}


def test_every_public_name_is_there_and_listed():
    for name in segjax.__all__:
        assert getattr(segjax, name) is not None and name in dir(segjax)
    assert segjax.__version__[0].isdigit()


def test_a_name_that_is_not_there_names_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'SamPredictor'"):
        segjax.SamPredicter  # noqa: B018
