"""`segjax train` on CPUs keeps freed memory."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, os, resource
from segjax.cli.memory import keep_freed_memory

done = keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def step():
    before, block = faults(), libc.malloc(ctypes.c_size_t(2**27))
    ctypes.memset(block, 1, 2**27)
    libc.free(block)
    return faults() - before

step()
print(done, step())
"""


def outcome(**environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    changed, faults = done.stdout.split()
    return changed == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_needs_no_new_pages():
    """128 MiB are 32,768 pages of 4 KiB, or 64 of 2 MiB."""
    done, faults = outcome(JAX_PLATFORMS="cpu")
    assert done and faults < 50


@pytest.mark.parametrize(
    "environment",
    [{"JAX_PLATFORMS": "cuda,cpu"}, {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "4"}],
)
def test_nothing_changes_with_accelerators_or_malloc_variables(environment):
    done, faults = outcome(**environment)
    assert not done and faults >= 50
