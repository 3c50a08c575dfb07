"""What `import segjax` costs, measured in fresh processes."""

import subprocess
import sys

import pytest

import segjax

MEASURE = """
import sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
loaded = [name for name in ("jax", "tensorflow", "torch", "matplotlib") if name in sys.modules]
started = parsed = False
if "jax" in sys.modules:
    from jax._src import xla_bridge
    started = xla_bridge.backends_are_initialized()
if "absl.flags" in sys.modules:
    parsed = sys.modules["absl.flags"].FLAGS.is_parsed()
print(seconds, ",".join(loaded), started, parsed)
"""


def measured(statement):
    run = subprocess.run([sys.executable, "-c", MEASURE.format(statement=statement)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    seconds, loaded, started, parsed = run.stdout.split("\n")[-2].split(" ")
    return float(seconds), loaded.split(","), started == "True", parsed == "True"


def test_importing_segjax_is_fast_and_loads_nothing():
    seconds, loaded, started, parsed = measured("import segjax")
    assert seconds < 1.5
    assert loaded == [""] and not started and not parsed


@pytest.mark.parametrize("name", [name for name in segjax.__all__ if name != "__version__"])
def test_using_a_name_starts_no_device_and_loads_no_tensorflow(name):
    _, loaded, started, parsed = measured(f"import segjax; segjax.{name}")
    assert not started and not parsed
    assert "tensorflow" not in loaded and "torch" not in loaded


def test_every_public_name_is_there_and_listed():
    for name in segjax.__all__:
        assert getattr(segjax, name) is not None and name in dir(segjax)
    assert segjax.__version__[0].isdigit()


def test_a_name_that_is_not_there_names_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'SamPredictor'"):
        segjax.SamPredicter  # noqa: B018
