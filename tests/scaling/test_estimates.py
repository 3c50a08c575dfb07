"""Floating-point operations of a traced program, estimated times, and the report."""

import importlib.util
import pathlib
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from segjax.models.attention import attention
from segjax.scaling.compilation import ChipMemory, Compilation, format_report, format_table_row
from segjax.scaling.estimates import StepTimes, count_flops, estimate_step_times
from segjax.scaling.slices import GIB, parse_slice
from segjax.scaling.traffic import Amount, Collective, Traffic

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "compile_for.py"
SLICE = parse_slice("v5e-16")  # 197e12 count_flops, 819e9 bytes of memory, 2 links of 50e9 a second
SEQUENCES = (256, 3, 8), (2048, 3, 8), (2048, 3, 4)  # of q, k and v
EXCHANGES = {
    Collective("all-gather", "bf16", 16): Amount(32, 16 / 15 * 1e9),
    Collective("all-reduce", "f32", 2, crosses=True): Amount(1, 1e8),
}
RESULT = Compilation(
    SLICE, {"data": 1, "fsdp": 16}, 32, 1, False, 12.3, 2e12, 19.7e12,
    ChipMemory(GIB, 3 * GIB, GIB // 8, 4 * GIB), Traffic(EXCHANGES, 16.38e9),
)  # fmt: skip


def test_flops_of_products_loops_and_recomputation():
    def step(w, x):
        layer = jax.checkpoint(lambda x, w: (jnp.sin(x @ w), None))
        return jax.lax.scan(layer, x, w)[0].sum()

    w, x = jnp.zeros((5, 16, 16)), jnp.zeros((8, 16))
    product = 2 * 8 * 16 * 16
    assert count_flops(jax.make_jaxpr(step)(w, x).jaxpr) == 5 * product
    # Forward, recomputation, and the gradients of both factors
    assert (
        count_flops(jax.make_jaxpr(jax.grad(step, argnums=(0, 1)))(w, x).jaxpr) == 5 * 4 * product
    )


def test_flops_of_a_convolution():
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 7))
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert count_flops(jax.make_jaxpr(convolve)(image, kernel).jaxpr) == 2 * (2 * 8 * 8 * 7) * (
        3 * 3 * 3
    )


@pytest.mark.parametrize("mesh", [(), (4, 2)])
def test_flops_of_a_kernel_on_one_device_and_on_eight(mesh):
    """Counts 8 examples of 256 x 2048 scores, whose keys are two blocks in the backward pass.

    There are two products forward, of widths 8 and 4, and five backward, three of width 8 and two
    of width 4. Each of eight devices has one example, or all of them if there are 12.
    """
    loss = lambda q, k, v: attention(q, k, v, impl="pallas").sum()
    shapes = lambda batch: [jax.ShapeDtypeStruct((batch, *rest), jnp.float32) for rest in SEQUENCES]
    with (
        jax.set_mesh(jax.make_mesh(mesh, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2))
        if mesh
        else nullcontext()
    ):
        forward = jax.make_jaxpr(loss)(*shapes(8)).jaxpr
        backward = jax.make_jaxpr(jax.grad(loss, range(3)))(*shapes(8)).jaxpr
        uneven = jax.make_jaxpr(loss)(*shapes(12)).jaxpr
    one = 2 * 3 * 256 * 2048  # heads and scores, a multiply-add each
    assert count_flops(forward) == 8 * one * (8 + 4)
    before = 2 * 8 * 3 * 256 * 4  # products of the result and its gradient, outside of the kernel
    assert count_flops(backward) == 8 * one * (8 + 4 + 3 * 8 + 2 * 4) + before
    assert count_flops(uneven) == 12 * one * (8 + 4) * (8 if mesh else 1)


def test_times_are_amounts_divided_by_rates():
    times = estimate_step_times(SLICE.chip, 19.7e12, Traffic(EXCHANGES, 16.38e9))
    # 1e9 bytes over two links of 50e9. A sum of 1e8 bytes over two slices sends 1e8, at 3.125e9.
    assert times == StepTimes(*(pytest.approx(seconds) for seconds in (0.1, 0.02, 0.01, 0.032)))
    assert (
        times.bottleneck == "compute"
        and times.full_overlap == pytest.approx(0.1)
        and times.no_overlap == pytest.approx(0.162)
    )


def test_the_report_names_the_peak_and_the_bottleneck(monkeypatch):
    monkeypatch.setattr("segjax.scaling.compilation.metadata.version", lambda name: "1.0")
    text = format_report(RESULT)
    assert text.startswith(
        "v5e-16: 16 chips, 4 x 4, 15.75 GiB per chip; mesh data 1, fsdp 16; "
        "32 images per step, 2 per chip"
    )
    assert "peak            4.00  of 15.75: fits" in text
    assert (
        "all-gather bf16 of 16" in text and "1017.3" in text and "953.7" in text
    )  # MiB whole, MiB sent
    assert "all-reduce f32 of 2 between slices" in text
    assert (
        "compute     100.00 ms  <- bottleneck" in text
        and "at least 100.0 ms (320 images/s), 162.0 ms" in text
    )
    assert "nothing was run" in text and "12 s on this machine's CPU with jax 1.0" in text
    row = (
        "| x | v5e-16 | 1 x 16 | 2 | 1.00 | 3.00 | 4.00 | 33, 1.02 GiB | 12 | 100 / 20 / 42 | 100 |"
    )
    assert format_table_row("x", RESULT) == row and RESULT.fits


def test_the_tool_reports_mistakes_with_status_2(capsys):
    spec = importlib.util.spec_from_file_location("compile_for", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    experiment = f"--config={TOOL.parents[1] / 'experiments' / 'mae' / 'quickstart.py'}:debug"
    for arguments, message in (
        ([experiment, "--topology=v5e-5"], "no slice 'v5e-5'; of v5e there are v5e-1"),
        ([experiment, "--topology=v5e-4", "--config.model.dept=3"], "no key 'model.dept'"),
        ([f"{experiment}x", "--topology=v5e-4"], "no variant 'debugx'"),
    ):
        assert tool.main(arguments) == 2
        assert message in capsys.readouterr().err
