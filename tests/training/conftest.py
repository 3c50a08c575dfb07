import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def cache_small_programs():
    """Caches small compiled programs too: many tests train the same toy."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)
