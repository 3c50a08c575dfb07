"""Operations counted in a traced program, times by arithmetic, and what is printed of them."""

import importlib.util
import pathlib
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from segjax.models.attention import attention
from segjax.scaling.arithmetic import StepTimes, operations, step_times
from segjax.scaling.compilation import Compilation, Memory, report, table_row
from segjax.scaling.program_text import Amount, Collective, Traffic
from segjax.scaling.slices import GIB, parse_slice

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "compile_for.py"
SLICE = parse_slice("v5e-16")  # 197e12 operations, 819e9 bytes of memory, 2 links of 50e9 a second
SEQUENCES = (256, 3, 8), (2048, 3, 8), (2048, 3, 4)  # of q, k and v
EXCHANGES = {
    Collective("all-gather", "bf16", 16): Amount(32, 16 / 15 * 1e9),
    Collective("all-reduce", "f32", 2, crosses=True): Amount(1, 1e8),
}
FOUND = Compilation(
    SLICE, {"data": 1, "fsdp": 16}, 32, 1, False, 12.3, 2e12, 19.7e12, Memory(GIB, 3 * GIB, GIB // 8, 4 * GIB),
    Traffic(EXCHANGES, 16.38e9),
)  # fmt: skip


def test_operations_of_products_loops_and_recomputation():
    def step(w, x):
        layer = jax.checkpoint(lambda x, w: (jnp.sin(x @ w), None))
        return jax.lax.scan(layer, x, w)[0].sum()

    w, x = jnp.zeros((5, 16, 16)), jnp.zeros((8, 16))
    product = 2 * 8 * 16 * 16
    assert operations(jax.make_jaxpr(step)(w, x).jaxpr) == 5 * product
    # Forward, once more, and the gradients of both factors.
    assert operations(jax.make_jaxpr(jax.grad(step, argnums=(0, 1)))(w, x).jaxpr) == 5 * 4 * product


def test_operations_of_a_convolution():
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 7))
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert operations(jax.make_jaxpr(convolve)(image, kernel).jaxpr) == 2 * (2 * 8 * 8 * 7) * (
        3 * 3 * 3
    )


@pytest.mark.parametrize("mesh", [(), (4, 2)])
def test_operations_of_a_kernel_on_one_device_and_on_eight(mesh):
    """8 examples of 256 x 2048 scores: two blocks of keys backward. Two products forward, of widths 8 and 4; backward
    three of width 8 and two of width 4. Each of eight devices has one example, or all of them if they are 12."""
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
    of_one = 2 * 3 * 256 * 2048  # heads and scores, two operations each
    assert operations(forward) == 8 * of_one * (8 + 4)
    before = 2 * 8 * 3 * 256 * 4  # products of the result and its gradient, outside the kernel
    assert operations(backward) == 8 * of_one * (8 + 4 + 3 * 8 + 2 * 4) + before
    assert operations(uneven) == 12 * of_one * (8 + 4) * (8 if mesh else 1)


def test_times_are_amounts_over_rates():
    times = step_times(SLICE.chip, 19.7e12, Traffic(EXCHANGES, 16.38e9))
    # 1e9 bytes over two links of 50e9; 1e8 bytes summed over two slices are 1e8 sent, at 3.125e9.
    assert times == StepTimes(*(pytest.approx(seconds) for seconds in (0.1, 0.02, 0.01, 0.032)))
    assert (
        times.bound == "compute"
        and times.least == pytest.approx(0.1)
        and times.one_by_one == pytest.approx(0.162)
    )


def test_the_report_says_what_fits_and_what_binds(monkeypatch):
    monkeypatch.setattr("segjax.scaling.compilation.metadata.version", lambda name: "1.0")
    said = report(FOUND)
    assert said.startswith(
        "v5e-16: 16 chips, 4 x 4, 15.75 GiB a chip; mesh data 1, fsdp 16; 32 images a step, 2 a chip"
    )
    assert "peak            4.00  of 15.75: fits" in said
    assert (
        "all-gather bf16 of 16" in said and "1017.3" in said and "953.7" in said
    )  # MiB whole, MiB sent
    assert "all-reduce f32 of 2 between slices" in said
    assert (
        "compute     100.00 ms  <- the longest" in said
        and "at least 100.0 ms (320 images/s), 162.0 ms" in said
    )
    assert "nothing was run" in said and "12 s on this machine's CPU with jax 1.0" in said
    row = (
        "| x | v5e-16 | 1 x 16 | 2 | 1.00 | 3.00 | 4.00 | 33, 1.02 GiB | 12 | 100 / 20 / 42 | 100 |"
    )
    assert table_row("x", FOUND) == row and FOUND.fits


def test_the_tool_s_mistakes_are_told_with_status_2(capsys):
    spec = importlib.util.spec_from_file_location("compile_for", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    experiment = f"--config={TOOL.parents[1] / 'experiments' / 'mae' / 'quickstart.py'}:debug"
    for arguments, said in (
        ([experiment, "--topology=v5e-5"], "no slice 'v5e-5'; of v5e there are v5e-1"),
        ([experiment, "--topology=v5e-4", "--config.model.dept=3"], "no key 'model.dept'"),
        ([f"{experiment}x", "--topology=v5e-4"], "no variant 'debugx'"),
    ):
        assert tool.main(arguments) == 2
        assert said in capsys.readouterr().err
