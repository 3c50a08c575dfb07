"""How many programs are compiled, for tests that say so."""

import contextlib

import jax


@contextlib.contextmanager
def compilations():
    """Yields a list that receives one entry for each program compiled inside the block."""
    seen = []

    def listener(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
