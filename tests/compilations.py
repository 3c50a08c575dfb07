"""How many programs are compiled, for tests that say so."""

import contextlib

import jax


@contextlib.contextmanager
def compilations():
    """The names of the events of every program that is compiled inside the block, the smallest too."""
    seen = []

    def listener(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
