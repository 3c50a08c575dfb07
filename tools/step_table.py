"""Where a promptable training step's time and memory go, part by part.

    .venv/bin/python tools/step_table.py --config=experiments/sam/quickstart.py [--config.batch_size=4 ...]

Each part is compiled and timed by itself on one batch: the image encoder, the first round and a later one (decoder and
loss), forward and with gradient; the loss alone, the optimizer, the input; then the whole step. The parts need not add
up to it: XLA fuses across them, and they compete for memory.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from segjax.cli.experiments import apply_flags, read_config
from segjax.data.splits import open_split
from segjax.prompting.simulation import Simulator
from segjax.tasks import make_task
from segjax.training.optimizer import from_config
from segjax.training.state import create_state
from segjax.training.step import make_train_step


def measure(name: str, function: Callable, *args: Any, repeats: int = 20) -> Any:
    """Prints a row: median time by the clock and of all cores, and the memory needed beside the arguments."""
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
    print(f"| {name} | {clock:.0f} | {cpu:.0f} | {megabytes:.0f} | {compile_seconds:.0f} |", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]")
    args, rest = parser.parse_known_args()
    config = apply_flags(read_config(args.config), rest)
    task = make_task(config)

    print(
        f"{args.config} on {jax.devices()[0].device_kind}, {config.batch_size} images, {config.rounds.count} rounds\n"
    )
    print("| part | ms | CPU ms | MiB | compile s |\n|---|---|---|---|---|")
    batches = task.batches("train", batch_size=config.batch_size)
    batch = next(batches)
    examples = len(open_split(config.data.to_dict(), "train"))
    for name, count in (("first epoch", max(1, examples // config.batch_size - 1)), ("later epochs, cached", 30)):
        began = time.perf_counter()
        for _ in range(count):
            next(batches)
        print(f"| input, 1 batch, {name} | {1e3 * (time.perf_counter() - began) / count:.0f} | | | |", flush=True)
    batches.close()
    batch = {name: value for name, value in batch.items() if name != "index"}

    variables = jax.jit(task.init)(jax.random.key(0))
    with_params = lambda params: {**variables, "params": params}
    encode = lambda params: task.model.apply(
        with_params(params), batch["image"], batch["size"], train=False, method="encode_image"
    )
    embedding = measure("encoder, forward", encode, variables["params"])
    measure("encoder, with gradient", jax.grad(lambda params: encode(params).sum()), variables["params"])

    simulator: Simulator = task.simulator(batch)
    session = jax.jit(simulator.first_prompt, static_argnums=1)(jax.random.key(1), task.mask_size)
    no_skip = np.zeros(batch["valid"].shape, bool)
    measure("next click", lambda key: simulator.prompted(key, session, 1, no_skip), jax.random.key(2))
    context = (variables["params"], embedding)
    for name, play in (("first round", simulator.first_round), ("a later round", simulator.later_round)):
        loss = lambda context, play=play: play((with_params(context[0]), context[1]), session)[1]["loss"].sum()
        measure(f"{name}, forward", loss, context)
        measure(f"{name}, with gradient", jax.grad(loss), context)
    logits, iou = task.decode_session((variables, embedding), session, False)
    score = lambda logits: simulator.score(simulator.upsampled(logits), iou[:, :, 1:], simulator.truth)["loss"].sum()
    measure("loss of three masks, with gradient", jax.grad(score), logits[:, :, 1:])

    schedule, optimizer = from_config(config)
    state = create_state(variables, optimizer, jax.random.key(3))

    def update(grads, state):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    measure("optimizer", update, variables["params"], state)
    measure("**the step**", make_train_step(task.loss, optimizer, schedule), state, batch, repeats=40)


if __name__ == "__main__":
    main()
