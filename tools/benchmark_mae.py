"""Compares a training step of a MAE with transformers' ViTMAEForPreTraining.

    .venv/bin/pip install -e .[parity]      # brings the reference
    .venv/bin/python tools/benchmark.py mae
    .venv/bin/python tools/benchmark.py mae --model mae_vit_l --batch 64 --dtype bfloat16 \\
      --platform gpu

A step is forward pass, backward pass and AdamW. All sides start from the same drawn weights and get
the same uint8 images. Each draws its own masks. "eager" and "sdpa" are the two attentions of the
reference, "compiled" is "sdpa" under torch.compile. In half precision the reference runs under
autocast. Its parameters stay float32, as in segjax. The peak in the table is host memory, which is
not informative on a GPU.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from turns import Worker, format_table_head, format_table_row, run_in_turn

SIDES = ("segjax", "eager", "sdpa", "compiled")
ADAM = dict(peak_lr=1e-4, weight_decay=0.05)


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark and prints the table."""
    from segjax.models.flops import TRAINING, count_mae_multiply_adds
    from segjax.models.mae import build_mae

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mae_vit_b")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--platform", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)
    options = dict(model=args.model, batch=args.batch, dtype=args.dtype, platform=args.platform)
    workers = [Worker(make_parts, side, options) for side in args.sides]
    print(format_table_head(args.sides))
    # The matrix product gives the rate that the machine reaches.
    peaks, products = run_in_turn(workers, "matmul", 3 * args.repeats)
    print(format_table_row("4096 x 4096 matrices multiplied", peaks, products), flush=True)
    # The training step
    peaks, times = run_in_turn(workers, "step", args.repeats)
    print(format_table_row(f"{args.model}, step of {args.batch}", peaks, times), flush=True)
    flops = 2 * TRAINING * args.batch * sum(count_mae_multiply_adds(build_mae(args.model)))
    rates = [2 * 4096**3 / np.median(seconds) for seconds in products]
    medians = [np.median(seconds) for seconds in times]
    shares = (f"{flops / median / rate:.0%} |" for median, rate in zip(medians, rates, strict=True))
    print(f"| share of matmul's rate, for {flops:.2e} flops | {' | '.join(shares)} | |")
    print(
        "| images per second | "
        f"{' | '.join(f'{args.batch / median:.2f} |' for median in medians)} | |"
    )


def make_parts(side: str, **options) -> dict[str, Callable]:
    """Makes the functions that a side runs: "matmul" and "step"."""
    make = make_segjax_parts if side == "segjax" else make_reference_parts
    return make(side, **options)


def make_segjax_parts(
    side: str, model: str, batch: int, dtype: str, platform: str
) -> dict[str, Callable]:
    """Makes segjax's side."""
    from segjax.cli.memory import keep_freed_memory

    keep_freed_memory()  # as in `segjax train`, before jax is imported
    import jax

    jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[platform])
    from golden.drawn_weights import drawn_variables

    from segjax.models.mae import init_mae
    from segjax.tasks.reconstruction.config import reconstruction_config
    from segjax.tasks.reconstruction.task import Reconstruction
    from segjax.training.optimizer import make_optimizer, make_schedule
    from segjax.training.sharding import make_mesh, place_batch, state_shardings
    from segjax.training.state import init_state
    from segjax.training.step import TrainStep

    # Model, optimizer and state
    config = reconstruction_config()
    config.model = dict(name=model, dtype=dtype)
    task, mesh = Reconstruction(config), make_mesh()
    schedule = make_schedule(ADAM["peak_lr"], 1000, schedule="constant")
    optimizer = make_optimizer(schedule, b2=0.95, weight_decay=ADAM["weight_decay"])
    state = init_state(drawn_variables(task.model, init_mae), optimizer, jax.random.key(0))
    shardings = state_shardings(state, mesh)
    state = jax.device_put(state, shardings)
    square = jax.device_put(
        np.random.default_rng(0).standard_normal((4096, 4096), np.float32).astype(dtype)
    )
    product = jax.jit(lambda a: a @ a)
    options = dict(loss_fn=task.loss, optimizer=optimizer, schedule=schedule)
    step = TrainStep(mesh, shardings, **options)
    images = dict(image=make_images(batch, task.model.canvas), weight=np.ones(batch, np.float32))

    def run() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = step(state, place_batch(images, mesh))
            jax.block_until_ready(metrics)

    return {"matmul": lambda: product(square).block_until_ready(), "step": run}


def make_reference_parts(
    side: str, model: str, batch: int, dtype: str, platform: str
) -> dict[str, Callable]:
    """Makes a side of the reference, with one of its attentions."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import torch
    from golden.drawn_weights import drawn_variables
    from parity.mae_reference import MEAN, STD, TransformersMae

    from segjax.models.mae import build_mae, init_mae

    mae_model = build_mae(model)
    device, kind = {"cpu": "cpu", "gpu": "cuda"}[platform], getattr(torch, dtype)
    attention = "eager" if side == "eager" else "sdpa"
    mae = (
        TransformersMae(mae_model, drawn_variables(mae_model, init_mae), attention)
        .mae.train()
        .to(device)
    )
    forward = torch.compile(mae) if side == "compiled" else mae
    optimizer = torch.optim.AdamW(
        mae.parameters(), lr=ADAM["peak_lr"], betas=(0.9, 0.95), weight_decay=ADAM["weight_decay"]
    )
    images = torch.from_numpy(make_images(batch, mae_model.canvas))
    mean, std = (torch.tensor(values, dtype=torch.float32, device=device) for values in (MEAN, STD))
    # Inputs
    square = torch.randn(4096, 4096, device=device, dtype=kind)
    wait = torch.cuda.synchronize if platform == "gpu" else lambda: None

    def run() -> None:
        pixels = ((images.to(device) - mean) / std).permute(0, 3, 1, 2)
        with torch.autocast(device, kind, enabled=dtype != "float32"):
            loss = forward(pixels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()

    def multiply() -> None:
        with torch.no_grad():
            square @ square
        wait()

    return {"matmul": multiply, "step": run}


def make_images(batch: int, canvas: int) -> np.ndarray:
    """Draws uint8 images [batch, canvas, canvas, 3]."""
    return np.random.default_rng(0).integers(0, 256, (batch, canvas, canvas, 3), np.uint8)
