"""A simulated full disk: a write is cut short, and the next one fails."""

import contextlib
import resource

import jax


@contextlib.contextmanager
def full_disk(room: int):
    """Limits the size of files to `room` bytes inside the block."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", 1e9
    )  # the tests' own cache keeps its files whole
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
