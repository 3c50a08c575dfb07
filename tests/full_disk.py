"""A disk on which there is no more room, as writers meet it: a write that is cut short, and then one that fails."""

import contextlib
import resource

import jax


@contextlib.contextmanager
def full_disk(room: int):
    """Inside the block no file grows beyond `room` bytes; the system refuses the rest."""
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
