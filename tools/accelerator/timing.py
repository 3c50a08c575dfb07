"""Times, memory and utilization of a call, for segjax and for PyTorch alike."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from segjax.training.throughput import compute_utilization, find_peak

GIB = 2**30
_SAMPLE = 0.05  # seconds of one sample on an accelerator: several short calls
_TOTAL = 3.0  # seconds of all samples
_MOST = 20


def time_call(
    call: Callable[[], Any], wait: Callable[[Any], Any], *, pipelined: bool
) -> dict[str, float]:
    """Times a call after two calls that warm up.

    Args:
      call: The call. It may return before its result is ready.
      wait: Waits for the result of a call.
      pipelined: Start short calls several at a time, so that waiting does not count.

    Returns:
      "ms", the median of the samples, and "lowest_ms".
    """
    for _ in range(2):
        began = time.perf_counter()
        wait(call())
        once = time.perf_counter() - began
    calls = max(1, round(_SAMPLE / once)) if pipelined else 1
    samples = int(np.clip(_TOTAL / (calls * once), 3, _MOST))
    seconds = []
    for _ in range(samples):
        began = time.perf_counter()
        for _ in range(calls):
            result = call()
        wait(result)
        seconds.append((time.perf_counter() - began) / calls)
    return {"ms": 1e3 * float(np.median(seconds)), "lowest_ms": 1e3 * min(seconds)}


def describe_rate(
    times: Mapping[str, float], images: int, flops: float, kind: str, dtype: str = "bfloat16"
) -> dict[str, float]:
    """Computes images per second, TFLOP/s and the model FLOPs utilization.

    Args:
      times: From `time_call`.
      images: Images of a call.
      flops: Operations of one image. 0: unknown.
      kind: Name of the device.
      dtype: Type of the computation. The peak is known for "bfloat16" alone.
    """
    peak = find_peak(kind) if dtype == "bfloat16" else 0.0
    return compute_utilization(images / (times["ms"] / 1e3), flops, 1, peak)


def attempt(row: dict[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a row with what `measure` returns, or with its error.

    Any exception counts: a row that runs out of memory must not end the others.
    """
    try:
        return row | measure()
    except Exception as error:  # noqa: BLE001
        text = str(error).strip().splitlines()
        return row | {"error": f"{type(error).__name__}: {text[0][:200] if text else ''}"}


def attempt_each(
    rows: Mapping[Any, dict[str, Any]], measure: Callable[[Any], Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yields `attempt` of every row: its key is the argument of `measure`."""
    for key, row in rows.items():
        yield attempt(row, lambda key=key: measure(key))
