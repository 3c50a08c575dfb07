"""A folder has one owner at a time, and the lock of an owner that has ended is taken over."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from segjax import locks
from segjax.locks import LOCK_FILE, FolderInUseError, FolderLock, FolderLostError

# A process that tries in forked processes, which start faster than new ones.
TRY_OFTEN = """
import os, sys
from segjax.locks import FolderInUseError, FolderLock
for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        try:
            FolderLock(sys.argv[1])
        except FolderInUseError as error:
            os.write(1, f"{error}\\n".encode())
        os._exit(0)
for _ in range(int(sys.argv[2])):
    os.wait()
"""
HOLD = """
import sys, time
from segjax.locks import FolderLock
FolderLock(sys.argv[1])
print("held", flush=True)
time.sleep(99)
"""


def start(code, *arguments):
    root = pathlib.Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, "_RENEW", 0.02)
    monkeypatch.setattr(locks, "_SILENCE", 0.3)


def write_owner(folder, **changes):
    """Writes the lock of an owner that differs from this process."""
    owner = locks._describe_self() | changes
    (folder / LOCK_FILE).write_text(json.dumps(owner))
    return owner


def test_40_other_processes_are_refused_and_told_by_whom(tmp_path):
    with FolderLock(tmp_path):
        output, _ = start(TRY_OFTEN, tmp_path, 40).communicate()
    lines = output.splitlines()
    assert len(lines) == 40
    assert {line.split(" on ")[0] for line in lines} == {
        f"{tmp_path} is in use by process {os.getpid()}"
    }


def test_of_40_processes_that_start_together_one_gets_the_lock(tmp_path):
    # The winner ends without a release, so a later one may take over: never two at once
    output, _ = start(TRY_OFTEN, tmp_path, 40).communicate()
    assert len(output.splitlines()) < 40
    FolderLock(tmp_path).release()


def test_this_process_is_refused_too_and_a_release_makes_room(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(FolderInUseError, match="by this process itself"):
        FolderLock(tmp_path / ".." / tmp_path.name)
    lock.release()
    lock.release()
    assert not any(tmp_path.iterdir())
    FolderLock(tmp_path).release()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, signum):
    process = start(HOLD, tmp_path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(FolderInUseError, match=f"process {process.pid} on .*; wait until it ends"):
        FolderLock(tmp_path)
    process.send_signal(signum)
    process.communicate()
    began = time.monotonic()
    with FolderLock(tmp_path) as lock:
        lock.check()
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"pid": "x"}', b"[" * 9999])
def test_a_damaged_lock_without_an_owner_is_taken_over(tmp_path, content):
    (tmp_path / LOCK_FILE).write_bytes(content)
    FolderLock(tmp_path).release()


def test_a_process_id_that_is_used_again_is_another_process(tmp_path):
    write_owner(tmp_path, pid=os.getppid(), start="0")
    FolderLock(tmp_path).release()


def test_where_the_kernel_has_no_locks_the_owner_is_looked_for(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "lockf", unsupported)
    parent = os.getppid()
    write_owner(tmp_path, pid=parent, start=locks._start_time(parent))
    with pytest.raises(FolderInUseError, match=f"in use by process {parent}"):
        FolderLock(tmp_path)


def test_an_owner_on_another_machine_is_refused_while_it_lives(tmp_path, quick):
    write_owner(tmp_path, boot="another", host="node7", pid=12)
    path, ended = tmp_path / LOCK_FILE, threading.Event()

    def live():
        while not ended.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(FolderInUseError, match=f"process 12 on node7; .*, or delete {path} if"):
        FolderLock(tmp_path)
    ended.set()
    thread.join()
    assert json.loads(path.read_text())["host"] == "node7"


def test_an_owner_on_another_machine_that_is_silent_is_replaced(tmp_path, quick, caplog):
    write_owner(tmp_path, boot="another", host="node7", pid=12)
    with FolderLock(tmp_path) as lock:
        lock.check()
        assert "was used by process 12 on node7; waiting" in caplog.text
        output, _ = start(TRY_OFTEN, tmp_path, 1).communicate()
        assert f"process {os.getpid()}" in output


def test_the_owner_gives_signs_of_life(tmp_path, quick):
    with FolderLock(tmp_path) as lock:
        first = lock._read_sign()
        until = time.monotonic() + 5
        while lock._read_sign() == first:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_deleted_folder_and_a_lost_lock_are_noticed(tmp_path):
    (folder := tmp_path / "run").mkdir()
    with FolderLock(folder) as lock:
        write_owner(folder, host="node7", pid=12)
        with pytest.raises(FolderLostError, match="taken over by process 12 on node7"):
            lock.check()
        (folder / LOCK_FILE).unlink()
        folder.rmdir()
        with pytest.raises(FolderLostError, match=f"{folder} was deleted"):
            lock.check()
    assert not folder.exists()
