"""Launchers of tools/launch, with stand-ins for gcloud, srun and the training."""

import os
import re
import shlex
import subprocess
import time

import pytest
import yaml
from processes import TESTS

from segjax.cli import _make_parser

LAUNCH = TESTS.parent / "tools" / "launch"
# Writes its arguments to a file, and ends with the next status in the file "statuses".
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0")" "$@" "" >> {folder}/said
[ "$(basename "$0")" = {ends} ] || exit 0
read -r status < {folder}/statuses; sed -i 1d {folder}/statuses; exit "$status"
"""


@pytest.fixture
def machine(tmp_path):
    """Makes stand-ins and returns the environment to run a launcher in."""

    def make(names, ends, statuses):
        home = tmp_path / "segjax" / ".venv" / "bin"
        for folder in (tmp_path / "bin", home):
            folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = (home if name == "segjax" else tmp_path / "bin") / name
            path.write_text(STAND_IN.format(folder=tmp_path, ends=ends))
            path.chmod(0o755)
        (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        return os.environ | {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
        }

    return make


def calls(folder):
    """Returns the words of each call of a stand-in."""
    return [call.split("\n") for call in (folder / "said").read_text().strip().split("\n\n")]


def assert_trains(words, workdir):
    """Checks that `segjax train` accepts the command line, and returns its arguments."""
    args, rest = _make_parser(words).parse_known_args(words)
    assert (
        args.command == "train"
        and args.workdir == workdir
        and (TESTS.parent / args.config).is_file()
    )
    assert all(word.startswith("--config.") for word in rest)
    return args


def test_tpu_pod_starts_all_workers_and_restarts_after_a_loss(tmp_path, machine):
    environment = machine(["gcloud", "segjax", "sleep"], "segjax", [75, 137, 0])
    flags = ["my-slice", "us-east5-a", "/mnt/runs/a run", "--config.mesh.fsdp=16"]
    subprocess.run(["bash", LAUNCH / "tpu_pod.sh", *flags], env=environment, check=True)
    (gcloud,) = calls(tmp_path)
    assert gcloud[1:8] == [
        "compute",
        "tpus",
        "tpu-vm",
        "ssh",
        "my-slice",
        "--zone=us-east5-a",
        "--worker=all",
    ]
    (tmp_path / "said").unlink()

    remote = gcloud[8].removeprefix("--command=")
    subprocess.run(
        ["bash", "-c", remote], env=environment, check=True
    )  # as ssh would, on each host
    log, until = tmp_path / "segjax.log", time.monotonic() + 30
    said = lambda: (
        log.read_text() if log.exists() else ""
    )  # the loop, which goes on alone, makes the file
    while "status 0" not in said():
        assert time.monotonic() < until, said()
        time.sleep(0.05)
    assert re.findall(r"status (\d+)", said()) == ["75", "137", "0"]
    trained = [words[1:] for words in calls(tmp_path) if words[0] == "segjax"]
    assert len(trained) == 3 and trained[0] == trained[1]
    assert (
        assert_trains(trained[0], "/mnt/runs/a run").distributed
        and "--config.mesh.fsdp=16" in trained[0]
    )


@pytest.mark.parametrize(
    ("status", "requeued"), [(0, False), (2, False), (75, True), (137, True), (143, True)]
)
def test_slurm_starts_one_process_per_task_and_requeues_resumable_runs(
    tmp_path, machine, status, requeued
):
    environment = machine(["srun", "scontrol"], "srun", [status]) | {
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "12",
    }
    command = ["bash", LAUNCH / "slurm.sbatch", "/shared/runs/mae", "--config.batch_size=1024"]
    assert subprocess.run(command, env=environment).returncode == status
    srun, *others = calls(tmp_path)
    assert others == [["scontrol", "requeue", "7"]] * requeued
    words = srun[srun.index(".venv/bin/segjax") + 1 :]
    assert (
        assert_trains(words, "/shared/runs/mae").distributed
        and words[-1] == "--config.batch_size=1024"
    )


def test_kubernetes_manifest_is_consistent():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name, count = service["metadata"]["name"], job["spec"]["completions"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {
        "job-name": job["metadata"]["name"]
    }
    assert pod["subdomain"] == name and job["spec"]["completionMode"] == "Indexed"
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    (line,) = container["args"]
    program, *words = shlex.split(line.replace("$JOB_COMPLETION_INDEX", "3").removeprefix("exec "))
    args = assert_trains(words, "/runs/mae")
    assert (
        program == "segjax"
        and args.processes == job["spec"]["parallelism"] == count
        and args.process_id == 3
    )
    assert args.coordinator.split(":")[0] == f"{job['metadata']['name']}-0.{name}"
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert {rule["action"] for rule in rules} == {"Ignore", "FailJob"} and pod[
        "restartPolicy"
    ] == "Never"


@pytest.mark.parametrize("script", ["tpu_pod.sh", "slurm.sbatch"])
def test_a_launcher_without_arguments_prints_its_usage(script):
    done = subprocess.run(["bash", LAUNCH / script], capture_output=True, text=True)
    assert (
        done.returncode == 2 and f"{script} " in done.stderr and "--config.key=value" in done.stderr
    )
