"""Throughput of a run compared with the peak of its chips, and memory in use."""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Dense operations per second with bfloat16 inputs, in 1e12, by jax's name of the device. The first
# match counts. Sources: Google's pages of the TPU versions (a device of v3 is one of the chip's two
# cores), NVIDIA's data sheets (without sparsity; for the RTX with float32 accumulation).
PEAK_TFLOPS = {
    "TPU v3": 61.5,
    "TPU v4$": 275.0,
    "TPU v5 lite|TPU v5e": 197.0,
    "TPU v5p?$": 459.0,
    "TPU v6 lite|TPU v6e": 918.0,
    "V100": 125.0,
    "A100": 312.0,
    "L4$": 121.0,
    "H100 PCIe": 756.0,
    "H100|H200": 989.0,
    "RTX 4090$": 165.0,
}
# float32 on NVIDIA's tensor cores, which is jax's default there. TPUs use one bfloat16 pass.
_TENSOR_FLOAT = 0.5


def find_peak(kind: str) -> float:
    """Returns the bfloat16 peak of a device by jax's name of it, 0 if it is not known."""
    return next((peak for pattern, peak in PEAK_TFLOPS.items() if re.search(pattern, kind)), 0.0)


def peak_tflops(device: jax.Device, dtype: str) -> float:
    """Returns the peak of one device in a dtype, in 1e12 operations per second.

    Args:
      device: The device.
      dtype: Compute dtype, for example "bfloat16".

    Returns:
      The peak, or 0 if it is not known, as for CPUs.
    """
    peak = find_peak(device.device_kind)
    full_rate = jnp.dtype(dtype).itemsize < 4 or device.platform == "tpu"
    return peak * (1.0 if full_rate else _TENSOR_FLOAT)


def compute_utilization(
    images_per_second: float, flops: float, chips: int, peak: float
) -> dict[str, float]:
    """Computes throughput and model FLOPs utilization (MFU) for the log.

    Args:
      images_per_second: Of all chips together.
      flops: Floating-point operations of the model for one image, see `Task.flops`. 0: unknown.
      chips: Number of chips.
      peak: Peak of one chip, in 1e12 operations per second. 0: unknown.

    Returns:
      "images_per_second" and "images_per_second_per_chip". If flops are known also
      "tflops_per_chip", and with a known peak "mfu", the share of it in 0..1.
    """
    per_chip = images_per_second / chips
    row = {"images_per_second": images_per_second, "images_per_second_per_chip": per_chip}
    if flops:
        row["tflops_per_chip"] = per_chip * flops / 1e12
        if peak:
            row["mfu"] = row["tflops_per_chip"] / peak
    return row


def measure_device_memory(devices: Sequence[jax.Device]) -> dict[str, float]:
    """Returns the peak memory so far on the fullest device. Asks the runtime, waits for nothing.

    Args:
      devices: Devices of this process.

    Returns:
      "memory_peak_gib" and "memory_limit_gib", in GiB. Empty if the devices do not report them,
      as CPUs do not.
    """
    all_stats = [stats for device in devices if (stats := device.memory_stats())]
    if not all_stats or "peak_bytes_in_use" not in all_stats[0]:
        return {}
    # The fullest device decides whether a run fits
    fullest = max(all_stats, key=lambda stats: stats["peak_bytes_in_use"])
    row = {"memory_peak_gib": fullest["peak_bytes_in_use"] / 2**30}
    if "bytes_limit" in fullest:
        row["memory_limit_gib"] = fullest["bytes_limit"] / 2**30
    return row
