"""The flagship runs, compiled for absent TPUs: how parameters are split, and a chip's memory.

    pytest -m tpu_compiler tests/scaling      # needs pip install -e .[tpu]

Takes tens of minutes on one core. Steps are compiled with `quick`. The limits are the peaks of jax
0.10.2 with libtpu 0.0.42.1, plus 5 %. SEGJAX_WRITE_GOLDENS=1 writes the tables of shardings anew.
"""

import functools
import importlib.util
import os
import pathlib
import re

import jax
import pytest

from segjax.cli.experiments import read_config
from segjax.cli.overrides import apply_flags
from segjax.scaling.compilation import compile_step, make_slice_program
from segjax.scaling.slices import GIB, parse_slice
from segjax.tasks import complete_config, make_task
from segjax.training.optimizer import parameter_path

pytestmark = [
    pytest.mark.tpu_compiler,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'segjax[tpu]'"
    ),
]
HERE = pathlib.Path(__file__).resolve().parent
EXPERIMENTS = HERE.parents[1] / "experiments"


def load_experiment(name, *flags, variant=""):
    config = apply_flags(read_config(f"{EXPERIMENTS / name}.py:{variant}"), flags)
    return make_task(config), complete_config(config)


def format_shardings(program):
    """Formats path, shape and mesh axes of each parameter as a line. Equal blocks share one."""
    lines = {}
    shardings = jax.tree_util.tree_leaves_with_path(program.shardings.params)
    for (path, sharding), shape in zip(
        shardings, jax.tree.leaves(program.shapes.params), strict=True
    ):
        axes = [*sharding.spec, *[None] * (shape.ndim - len(sharding.spec))]
        name = re.sub(r"block_\d+", "block_*", parameter_path(path))
        line = f"{name} {'x'.join(map(str, shape.shape))} {','.join(axis or '-' for axis in axes)}"
        assert lines.setdefault((name, shape.shape), line) == line, (
            "blocks of one shape are split alike"
        )
    return "\n".join(lines.values()) + "\n"


@pytest.mark.parametrize(
    "name, slice_name",
    [
        ("sam/sa1b_vit_b", "v5e-128"),
        ("sam/sa1b_vit_l", "v5e-128"),
        ("sam/sa1b_vit_h", "v5e-256"),
        ("mae/imagenet_h", "v5e-256"),
    ],
)
def test_parameters_are_split_as_in_the_golden_tables(name, slice_name):
    program = make_slice_program(*load_experiment(name), parse_slice(slice_name))
    golden, table = HERE / "goldens" / f"{pathlib.Path(name).name}.txt", format_shardings(program)
    if os.environ.get("SEGJAX_WRITE_GOLDENS"):
        golden.write_text(table)
    assert table == golden.read_text()
    specs = jax.tree.map(lambda sharding: sharding.spec, program.shardings.params)
    moments = [
        node
        for node in jax.tree.leaves(program.shardings.opt_state, is_leaf=lambda n: hasattr(n, "mu"))
        if hasattr(node, "mu")
    ]
    assert moments and all(
        jax.tree.map(lambda p: p.spec, m) == specs for node in moments for m in (node.mu, node.nu)
    )


@functools.cache
def compile_quickly(name, slice_name, *flags):
    return compile_step(*load_experiment(name, *flags), parse_slice(slice_name), quick=True)


@pytest.mark.parametrize(
    "name, slice_name, flags, limit",
    [
        ("mae/imagenet_b", "v5e-4", ("--config.batch_size=64", "--config.model.scan=true"), 4.12),
        ("mae/imagenet_h", "v5e-256", (), 1.82),
        ("sam/sa1b_vit_b", "v5e-4", ("--config.batch_size=4",), 4.36),
        ("sam/sa1b_vit_h", "v5e-256", (), 4.54),
        ("sam/sa1b_vit_h", "v5p-128", (), 15.5),
        ("sam/sa1b_vit_h", "v5e-256", ("--config.model.attention=pallas",), 3.8),
    ],
)
def test_a_chip_holds_the_step(name, slice_name, flags, limit):
    result = compile_quickly(name, slice_name, *flags)
    assert result.fits, result.refusal
    assert result.memory.peak <= limit * GIB


def test_weights_are_gathered_in_half_precision():
    result = compile_quickly("sam/sa1b_vit_h", "v5e-256")
    gathered = {
        c.dtype: a.bytes for c, a in result.traffic.collectives.items() if c.kind == "all-gather"
    }
    assert gathered["bf16"] > 10 * gathered.get("f32", 0)


def test_gradients_are_reduced_in_the_configured_dtype():
    options = (
        "--config.batch_size=64",
        "--config.model.scan=true",
        "--config.mesh.data=1",
        "--config.mesh.fsdp=4",
    )
    bytes_of = {}
    for dtype in ("", "float32"):
        result = compile_quickly(
            "mae/imagenet_b", "v5e-4", *options, f"--config.mesh.reduce_dtype={dtype}"
        )
        reduced = [
            (c, a)
            for c, a in result.traffic.collectives.items()
            if c.kind in ("reduce-scatter", "all-reduce")
        ]
        bytes_of[dtype] = {
            kind: sum(a.bytes for c, a in reduced if c.dtype == kind) for kind in ("bf16", "f32")
        }
    assert bytes_of[""]["bf16"] > 10 * bytes_of[""]["f32"]
    assert bytes_of["float32"]["f32"] > 10 * bytes_of["float32"]["bf16"]


def test_the_attention_kernel_compiles_in_a_step(tmp_path):
    """A small SAM with one global block of 16 x 16 tokens runs forward, again, and backward."""
    flags = (
        "--config.batch_size=4",
        "--config.mesh.fsdp=2",
        "--config.mesh.floor=256",
        "--config.model.dtype=bfloat16",
    )
    flags += (
        "--config.model.attention=pallas",
        "--config.model.canvas=256",
        "--config.model.remat=full",
    )
    program = tmp_path / "program.txt"
    result = compile_step(
        *load_experiment("sam/sa1b_vit_b", *flags, variant="debug"),
        parse_slice("v5e-4"),
        quick=True,
        text_file=str(program),
    )
    assert result.fits, result.refusal
    kernels = re.findall(
        r"splash_mha_(\w+?)_(?:no_)?residuals\S* = .*tpu_custom_call", program.read_text()
    )
    assert sorted(kernels) == ["dkv", "fwd", "fwd"]
