"""The device, its versions, and the rates that it reaches."""

import functools
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from accelerator.packages import COMPARED
from accelerator.timing import attempt, time_call
from segjax.training.throughput import find_peak

_VERSIONS = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "flax", "optax")
_QUERY = "driver_version,power.limit,clocks.max.sm,memory.total"


def identify() -> Iterator[dict[str, Any]]:
    """Yields the row that names the device."""
    device = jax.devices()[0]
    yield {"what": "device", "value": f"{jax.device_count()} x {device.device_kind}"}


def describe() -> Iterator[dict[str, Any]]:
    """Yields rows of the device, its driver, and versions."""
    yield from identify()
    device = jax.devices()[0]
    yield {"what": "platform", "value": f"{device.platform}, {device.client.platform_version}"}
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
        output = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        yield {"what": _QUERY, "value": output}
    yield {"what": "Python", "value": f"{platform.python_version()}, {platform.platform()}"}
    for name in (*_VERSIONS, *COMPARED):
        try:
            yield {"what": name, "value": metadata.version(name)}
        except metadata.PackageNotFoundError:
            continue


def measure_rates(width: int, mib: int) -> Iterator[dict[str, Any]]:
    """Yields the rates of matrix products and of a copy, by jax and by PyTorch.

    Args:
      width: Side of the square matrices.
      mib: Size in MiB of the array that is copied.
    """
    pipelined = jax.default_backend() != "cpu"
    kind = jax.devices()[0].device_kind
    draw = np.random.default_rng(0).standard_normal((width, width), np.float32)

    def multiply(dtype: str, precision: str | None) -> dict[str, float]:
        matrix = jnp.asarray(draw, dtype)
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        times = time_call(lambda: product(matrix, matrix), jax.block_until_ready,
                          pipelined=pipelined)  # fmt: skip
        return describe_product(width, times, kind if dtype == "bfloat16" else "")

    for dtype, precision in (("bfloat16", None), ("float32", None), ("float32", "highest")):
        text = f"{width} x {width} product, {dtype}, precision {precision or 'default'}"
        yield attempt(
            {"operation": text, "side": "jax"},
            lambda dtype=dtype, precision=precision: multiply(dtype, precision),
        )
    array = jnp.ones(mib * 2**18)
    negate = jax.jit(jnp.negative)
    times = time_call(lambda: negate(array), jax.block_until_ready, pipelined=pipelined)
    rate = 2 * mib * 2**20 / (times["ms"] / 1e3) / 1e9
    yield {"operation": f"copy of {mib} MiB", "side": "jax", "rate": rate}
    yield attempt(
        {"operation": f"{width} x {width} product, bfloat16", "side": "PyTorch"},
        lambda: _multiply_torch(width, kind),
    )


def describe_product(width: int, times: dict[str, float], kind: str) -> dict[str, float]:
    """Returns the rate of a product in TFLOP/s, and its share of the peak if that is known."""
    rate = 2 * width**3 / (times["ms"] / 1e3) / 1e12
    peak = find_peak(kind)
    return {"rate": rate} | ({"mfu": rate / peak} if peak else {})


def _multiply_torch(width: int, kind: str) -> dict[str, float]:
    import torch

    from accelerator.torch_sides import choose_device, wait

    matrix = torch.randn(width, width, device=choose_device(), dtype=torch.bfloat16)
    times = time_call(lambda: matrix @ matrix, wait, pipelined=choose_device() == "cuda")
    return describe_product(width, times, kind)
