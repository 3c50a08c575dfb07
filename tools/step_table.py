"""Prints time and memory of a training step, part by part.

    .venv/bin/python tools/step_table.py --config=experiments/sam/quickstart.py
    .venv/bin/python tools/step_table.py --config=experiments/mask_rcnn/quickstart.py \\
      --config.batch_size=4

Each part is compiled and timed alone on one batch:
  SAM         image encoder, first round and a later round (decoder and loss), forward and with
              gradient, and the loss alone
  Mask R-CNN  backbone and pyramid, region proposals, sampled regions, RoIAlign, each head, and the
              detection of a batch
  all tasks   input, optimizer, the whole step

The parts need not add up to the step: XLA fuses across them, and they compete for memory.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from segjax.cli.experiments import read_config
from segjax.cli.overrides import apply_flags
from segjax.data.splits import open_split
from segjax.inference.detection.postprocess import detect_on_canvas
from segjax.prompting.simulation import Simulator
from segjax.tasks import make_task
from segjax.tasks.detection.loss import GROUND_TRUTH_FIELDS
from segjax.tasks.detection.targets import sample_regions
from segjax.training.optimizer import build_optimizer
from segjax.training.state import init_state
from segjax.training.step import train_step


def measure(name: str, function: Callable, *args: Any, repeats: int) -> Any:
    """Times a function and prints a row of the table.

    Args:
      name: Name of the part.
      function: The part, jitted here.
      *args: Its arguments.
      repeats: Number of measured calls.

    Returns:
      The result of the function.
    """
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    compile_seconds = time.perf_counter() - began
    result = jax.block_until_ready(compiled(*args))
    times = []
    for _ in range(repeats):
        began = np.array([time.perf_counter(), time.process_time()])
        jax.block_until_ready(compiled(*args))
        times.append(np.array([time.perf_counter(), time.process_time()]) - began)
    clock, cpu = 1e3 * np.median(times, axis=0)
    megabytes = compiled.memory_analysis().temp_size_in_bytes / 2**20
    print(
        f"| {name} | {clock:.0f} | {cpu:.0f} | {megabytes:.0f} | {compile_seconds:.0f} |",
        flush=True,
    )
    return result


def main() -> None:
    """Prints the table of an experiment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]")
    parser.add_argument(
        "--repeats",
        type=int,
        default=20,
        metavar="N",
        help="measured calls of each part (default 20)",
    )
    args, rest = parser.parse_known_args()
    config = apply_flags(read_config(args.config), rest)
    task = make_task(config)

    print(f"{args.config} on {jax.devices()[0].device_kind}, {config.batch_size} images\n")
    print("| part | ms | CPU ms | MiB | compile s |\n|---|---|---|---|---|")
    batches = task.batches("train", batch_size=config.batch_size)
    batch = next(batches)
    time_input(batches, epoch=len(open_split(config.data.to_dict(), "train")) // config.batch_size)
    batch = {name: value for name, value in batch.items() if name != "index"}

    # Parts of the task
    row = functools.partial(measure, repeats=args.repeats)
    variables = jax.jit(task.init)(jax.random.key(0))
    if parts := PARTS.get(config.task):
        parts(row, task, variables, batch)

    # Optimizer and the whole step
    schedule, optimizer = build_optimizer(config)
    state = init_state(variables, optimizer, jax.random.key(3))

    def update(grads, state):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    row("optimizer", update, variables["params"], state)
    options = dict(loss_fn=task.loss, optimizer=optimizer, schedule=schedule)
    row("**the step**", functools.partial(train_step, **options), state, state.key, batch)


def time_input(batches: Any, epoch: int) -> None:
    """Prints the time of a batch from the loader, whose first batch has been read.

    Args:
      batches: Iterator of the task.
      epoch: Batches in one epoch.
    """
    for name, count in (("first epoch", max(1, epoch - 1)), ("later epochs, cached", 30)):
        began = time.perf_counter()
        for _ in range(count):
            next(batches)
        print(
            f"| input, 1 batch, {name} | {1e3 * (time.perf_counter() - began) / count:.0f} | | | |",
            flush=True,
        )
    batches.close()


def print_promptable_parts(row: Callable, task: Any, variables: dict, batch: dict) -> None:
    """Prints the parts of a SAM's step."""
    with_params = lambda params: {**variables, "params": params}
    encode = lambda params: task.model.apply(
        with_params(params), batch["image"], batch["size"], train=False, method="encode_image"
    )
    embedding = row("encoder, forward", encode, variables["params"])
    row(
        "encoder, with gradient", jax.grad(lambda params: encode(params).sum()), variables["params"]
    )

    # Rounds
    simulator: Simulator = task.make_simulator(batch)
    session = jax.jit(simulator.sample_first_prompt, static_argnums=1)(
        jax.random.key(1), task.mask_size
    )
    no_skip = np.zeros(batch["valid"].shape, bool)
    row("next click", lambda key: simulator.add_click(key, session, 1, no_skip), jax.random.key(2))
    context = (variables["params"], embedding)
    for name, play in (
        ("first round", simulator.run_first_round),
        ("a later round", simulator.run_later_round),
    ):
        loss = lambda context, play=play: play((with_params(context[0]), context[1]), session)[1][
            "loss"
        ].sum()
        row(f"{name}, forward", loss, context)
        row(f"{name}, with gradient", jax.grad(loss), context)
    # Loss
    logits, iou = task.decode_session((variables, embedding), session, False)
    score = lambda logits: simulator.loss_fn(
        simulator.upsample(logits), iou[:, :, 1:], simulator.ground_truth
    )["loss"].sum()
    row("loss of three masks, with gradient", jax.grad(score), logits[:, :, 1:])


def print_detection_parts(row: Callable, task: Any, variables: dict, batch: dict) -> None:
    """Prints the parts of a detector's step, and detection."""
    model, samples, images, sizes = task.model, task.samples, batch["image"], batch["size"]
    call = lambda method, params, *args, **options: model.apply(
        {**variables, "params": params}, *args, method=method, **options
    )

    def time_both(
        name: str, function: Callable, *args: Any, inputs: tuple[int, ...] = (0, 1)
    ) -> Any:
        """Times a part forward, and with the gradients of some of its inputs."""
        result = row(f"{name}, forward", function, variables["params"], *args)
        total = lambda *args: sum(
            jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(function(*args))
        )
        row(f"{name}, with gradient", jax.grad(total, inputs), variables["params"], *args)
        return result

    encode = lambda params, images: call("encode_image", params, images, sizes)
    # Backbone, pyramid and region proposals
    levels = time_both("backbone and pyramid", encode, images, inputs=(0,))
    outputs = time_both("proposal network", functools.partial(call, "propose"), levels)
    choose = lambda levels, outputs: call(
        "select_proposals",
        variables["params"],
        *outputs,
        levels,
        sizes,
        train=True,
    )
    proposals = row("proposals selected", choose, levels, outputs)
    ground_truth = {name: batch[name] for name in GROUND_TRUTH_FIELDS}
    draw = functools.partial(
        sample_regions, samples=samples.regions, positive_fraction=samples.positive_regions
    )
    regions = row(
        "regions sampled",
        jax.vmap(draw),
        jax.random.split(jax.random.key(1), len(images)),
        *proposals[::2],
        ground_truth,
    )

    flat = lambda x: x.reshape(-1, *x.shape[2:])
    pool = lambda side: (
        lambda _, levels, boxes: flat(
            call("pool_regions", variables["params"], levels, boxes, side)
        )
    )
    # Box head
    pooled = time_both("regions of 7 x 7", pool(7), levels, regions.boxes, inputs=(1,))
    time_both(
        "classes and boxes of regions (of a cascade's first stage)"
        if len(model.box_heads) > 1
        else "classes and boxes of regions",
        functools.partial(call, "classify"),
        pooled,
    )
    # Mask and keypoint heads
    pooled = time_both(
        "regions of 14 x 14", pool(14), levels, regions.boxes[:, : samples.objects], inputs=(1,)
    )
    if model.mask_head:
        time_both(
            "masks of regions",
            functools.partial(call, "segment"),
            pooled,
            flat(regions.labels[:, : samples.objects]),
        )
    if model.keypoint_head:
        time_both("keypoints of regions", functools.partial(call, "locate"), pooled)
    row(
        "detection, images to boxes",
        lambda variables: detect_on_canvas(model, variables, images, sizes),
        variables,
    )


PARTS = {"promptable": print_promptable_parts, "detection": print_detection_parts}


if __name__ == "__main__":
    main()
