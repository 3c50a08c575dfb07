"""How this process takes memory from the system: what makes training on CPUs faster."""

import ctypes
import importlib.util
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """On a machine without accelerators, memory that is freed stays with the process, for what is allocated next.

    A step on CPUs takes all its intermediate arrays as one block, gigabytes for a ViT-B, and frees it at its end. Left
    alone, glibc hands such a block back to the system every time, and the system clears each page again in the next
    step: a tenth of the time (docs/benchmarks.md). Call this before jax is imported: a thread that has a heap of its
    own keeps it. Does nothing without glibc, with an accelerator's plugin, and where the environment says how malloc
    should behave.

    Returns:
      Whether it did something.
    """
    told = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if told or not hasattr(libc, "mallopt") or not _cpus_alone():
        return False
    return all(
        libc.mallopt(option, value)
        for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    )


def _cpus_alone() -> bool:
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
