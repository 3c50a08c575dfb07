"""One of several processes that train the toy together: rank, count, devices each, port, workdir, result file."""

import json
import os
import signal
import sys

import jax

rank, count, devices, port, workdir, result, stop = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(devices))
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", num_processes=int(count), process_id=int(rank))

from segjax.training.interruption import Interrupted  # noqa: E402
from segjax.training.loop import train  # noqa: E402
from training.toy import ToyTask, toy_config  # noqa: E402


def watch(number: int) -> None:
    if stop == f"{rank}:{number}":  # this process alone is told to stop
        os.kill(os.getpid(), signal.SIGTERM)


interrupted = None
config = toy_config(mesh__fsdp=4, total_steps=200, log_every=1, optimizer__schedule="constant")
try:
    train(ToyTask(on_batch=watch), config, workdir)
except Interrupted as error:
    interrupted = error.step
with open(result, "w") as file:
    json.dump({"interrupted": interrupted, "devices": jax.device_count(), "processes": jax.process_count()}, file)
