"""Runs a function of a test module in several processes that know one another; as a script, it is
one of them.
"""

import importlib
import os
import pathlib
import pickle
import socket
import subprocess
import sys
import time
import traceback

import jax
from jax._src import distributed

TESTS = pathlib.Path(__file__).resolve().parent


def prepare_jax(devices: int) -> None:
    """CPU devices, and a compilation cache that outlives the run.

    Tests compile far more than they compute: without LLVM's optimisations they take a third of the
    time, and with XLA's older code generator, known to be there in jax 0.10, they compile three
    times as fast again.
    """
    if jax.version.__version_info__[:2] == (
        0,
        10,
    ):  # XLA ends the process at a flag that it does not know
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        )
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_disable_most_optimizations", True)
    cache = os.environ.get("SEGJAX_TEST_CACHE", str(TESTS.parent / ".cache" / "jax"))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start(command, log, **more) -> subprocess.Popen:
    """A process whose output goes to a file, and which can import segjax and the tests."""
    paths = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    with open(log, "w") as file:
        return subprocess.Popen(
            command, env=os.environ | paths | more, stdout=file, stderr=subprocess.STDOUT
        )


def child_of(process: subprocess.Popen) -> int:
    """The id of a process's only child."""
    return int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(process.pid)], text=True))


def statuses(processes, seconds: float) -> list[int | None]:
    """Exit statuses, once all have ended or one has failed, which leaves None for those that
    waited for it.
    """
    until = time.monotonic() + seconds
    try:
        while None in (found := [process.poll() for process in processes]) and not any(found):
            assert time.monotonic() < until, f"no end after {seconds} s"
            time.sleep(0.05)
        return found
    finally:
        for process in processes:
            process.kill()


def meet(name: str) -> None:
    """Returns when every process has come here, however long one of them has compiled: gloo
    waits 30 s for a peer.
    """
    if jax.process_count() > 1:
        distributed.global_state.client.wait_at_barrier(name, 800_000)


def launch(folder, function, processes: int, devices: int, **arguments) -> list:
    """What `function(**arguments)`, of a test module, returns in each process; each has
    `devices` devices.
    """
    folder.mkdir(exist_ok=True)
    (folder / "call").write_bytes(pickle.dumps((function.__module__, function.__name__, arguments)))
    port = free_port()
    command = lambda r: [sys.executable, __file__, *map(str, (r, processes, devices, port, folder))]
    workers = [start(command(r), folder / f"{r}.log") for r in range(processes)]
    codes = statuses(workers, 900)
    assert codes == [0] * processes, "\n".join(
        (folder / f"{r}.log").read_text()[-3000:] for r in range(processes)
    )
    return [pickle.loads((folder / f"{r}.result").read_bytes()) for r in range(processes)]


def main(rank: str, count: str, devices: str, port: str, folder: str) -> None:
    prepare_jax(int(devices))
    if int(count) > 1:
        jax.config.update("jax_compilation_cache_dir", None)  # see segjax.cli.processes.join
        jax.distributed.initialize(f"localhost:{port}", int(count), int(rank))
    module, name, arguments = pickle.loads(pathlib.Path(folder, "call").read_bytes())
    try:
        result = getattr(importlib.import_module(module), name)(**arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # at once: jax would wait for the others
    pathlib.Path(folder, f"{rank}.result").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
