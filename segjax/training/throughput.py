"""How fast a run is, against what its chips could do, and how full they are."""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Dense operations per second with bfloat16 inputs, in 1e12, by what jax calls the device; the first match counts.
# Sources: Google's pages of the TPU versions (of v3 a device is one of the chip's two cores), NVIDIA's data sheets
# (without sparsity; of the RTX, with float32 sums).
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
_TENSOR_FLOAT = 0.5  # float32 on NVIDIA's tensor cores, as jax has it by default; TPUs take one pass of bfloat16


def peak_tflops(device: jax.Device, dtype: str) -> float:
    """Operations per second of one device in a dtype, in 1e12; 0 where they are not known, as on CPUs."""
    kind = device.device_kind
    peak = next((peak for pattern, peak in PEAK_TFLOPS.items() if re.search(pattern, kind)), 0.0)
    whole = jnp.dtype(dtype).itemsize < 4 or device.platform == "tpu"
    return peak * (1.0 if whole else _TENSOR_FLOAT)


def utilisation(
    images_per_second: float, operations: float, chips: int, peak: float
) -> dict[str, float]:
    """What the log says of speed.

    Args:
      images_per_second: of all chips. operations: of the model for one image, `Task.operations_per_image`; 0: unknown.
      peak: operations per second of one chip, in 1e12; 0: unknown.

    Returns:
      "images_per_second", "images_per_second_per_chip"; with operations "tflops_per_chip", the model's own per second,
      and with a peak too "mfu", their share of it.
    """
    each = images_per_second / chips
    row = {"images_per_second": images_per_second, "images_per_second_per_chip": each}
    if operations:
        row["tflops_per_chip"] = each * operations / 1e12
        if peak:
            row["mfu"] = row["tflops_per_chip"] / peak
    return row


def device_memory(devices: Sequence[jax.Device]) -> dict[str, float]:
    """GiB at the peak so far on the fullest of this process's devices, and what it has; {} where none says, as CPUs.

    Asks the runtime, waits for nothing.
    """
    stats = [found for device in devices if (found := device.memory_stats())]
    if not stats or "peak_bytes_in_use" not in stats[0]:
        return {}
    fullest = max(stats, key=lambda found: found["peak_bytes_in_use"])
    row = {"memory_peak_gib": fullest["peak_bytes_in_use"] / 2**30}
    return row | (
        {"memory_limit_gib": fullest["bytes_limit"] / 2**30} if "bytes_limit" in fullest else {}
    )
