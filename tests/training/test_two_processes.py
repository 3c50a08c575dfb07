import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

from segjax.training.loop import train

from .toy import ToyTask, toy_config

HERE = pathlib.Path(__file__).parent


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def launch(folder, processes, devices, stop="-"):
    """Runs the worker in `processes` processes of `devices` devices; (what each found, losses by step)."""
    port, workdir = free_port(), folder / "run"
    folder.mkdir(exist_ok=True)
    outputs = [folder / f"{rank}.json" for rank in range(processes)]
    logs = [(folder / f"{rank}.log").open("w") for rank in range(processes)]
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                HERE / "two_processes.py",
                *map(str, (r, processes, devices, port, workdir, outputs[r], stop)),
            ],
            cwd=HERE.parent,
            env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE.parent.parent}"},
            stdout=logs[r],
            stderr=subprocess.STDOUT,
        )
        for r in range(processes)
    ]
    try:
        codes = [w.wait(timeout=120) for w in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert codes == [0] * processes, "\n".join((folder / f"{r}.log").read_text()[-3000:] for r in range(processes))
    return [json.loads(o.read_text()) for o in outputs], losses(workdir)


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["loss"] for r in rows if "loss" in r}


def test_two_processes_train_as_one_does_stop_together_and_leave_a_run_that_one_process_resumes(tmp_path):
    results, together = launch(tmp_path, 2, 2, stop="1:5")
    assert [r["devices"] for r in results] == [4, 4] and [r["processes"] for r in results] == [2, 2]
    stopped = {r["interrupted"] for r in results}
    assert len(stopped) == 1 and None not in stopped, "process 1 alone got SIGTERM; both stop, at one step"
    step = stopped.pop()
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()

    config = toy_config(mesh__fsdp=4, total_steps=step + 2, optimizer__schedule="constant", log_every=1)
    train(ToyTask(), config, tmp_path / "alone")
    alone = losses(tmp_path / "alone")
    np.testing.assert_allclose([together[i] for i in range(1, step + 1)], [alone[i] for i in range(1, step + 1)], 1e-5)
    train(ToyTask(), config, tmp_path / "run")  # 8 devices of one process, after 2 x 2
    resumed = losses(tmp_path / "run")
    np.testing.assert_allclose([resumed[i] for i in alone], list(alone.values()), 1e-5)
