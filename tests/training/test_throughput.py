from types import SimpleNamespace

import pytest

from segjax.training.throughput import compute_utilization, measure_device_memory, peak_tflops


@pytest.mark.parametrize(
    "kind, platform, half, single",
    [
        ("TPU v4", "tpu", 275, 275),
        ("TPU v5 lite", "tpu", 197, 197),
        ("TPU v5", "tpu", 459, 459),
        ("TPU v6 lite", "tpu", 918, 918),
        ("NVIDIA H100 80GB HBM3", "gpu", 989, 494.5),
        ("NVIDIA H100 PCIe", "gpu", 756, 378),
        ("NVIDIA A100-SXM4-40GB", "gpu", 312, 156),
        ("NVIDIA L4", "gpu", 121, 60.5),
        ("NVIDIA L40S", "gpu", 0, 0),
        ("cpu", "cpu", 0, 0),
    ],
)
def test_peak_by_device_name(kind, platform, half, single):
    device = SimpleNamespace(device_kind=kind, platform=platform)
    assert peak_tflops(device, "bfloat16") == half and peak_tflops(device, "float32") == single


def test_utilization_is_the_models_flops_over_the_peak():
    """100 images per second on 4 chips with 2e12 flops each are 50 of a peak of 200."""
    row = compute_utilization(100.0, 2e12, chips=4, peak=200.0)
    expected = {
        "images_per_second": 100,
        "images_per_second_per_chip": 25,
        "tflops_per_chip": 50,
        "mfu": 0.25,
    }
    assert row == pytest.approx(expected)
    assert "mfu" not in compute_utilization(100.0, 2e12, chips=4, peak=0.0)
    assert "tflops_per_chip" not in compute_utilization(100.0, 0.0, chips=4, peak=200.0)


def test_memory_of_the_fullest_device_is_reported():
    gib = 2**30
    full, other = (dict(peak_bytes_in_use=n * gib, bytes_limit=16 * gib) for n in (12, 3))
    devices = [SimpleNamespace(memory_stats=lambda found=found: found) for found in (other, full)]
    assert measure_device_memory(devices) == {"memory_peak_gib": 12, "memory_limit_gib": 16}
    assert measure_device_memory([SimpleNamespace(memory_stats=lambda: None)]) == {}
