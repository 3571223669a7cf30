"""Two runs cannot write into one folder, and a dead one keeps nobody out."""

import errno
import fcntl
import os
import signal

import pytest

from grpo.errors import UserError
from launch.runs.run_lock import RunLock
from tests.helpers.forked import forked


def hold(folder, held):
    RunLock(folder).acquire(create=True)
    held.set()
    signal.pause()


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder's lock."""
    context = forked()
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.wait(300)
    yield process
    process.kill()
    process.join()


def test_the_process_that_holds_it_is_named_and_waited_for(tmp_path, other):
    wanted = rf"{tmp_path}: process {other.pid} on \S+ writes into this run; valid: .* --run.name={tmp_path.name}-2 "
    for _ in range(2):  # the attempt does not break the lock
        with pytest.raises(UserError, match=wanted):
            RunLock(tmp_path).acquire(create=False)
    lock = RunLock(tmp_path)
    os.kill(other.pid, signal.SIGKILL)
    lock.acquire(create=False, wait=True)
    assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    lock.acquire(create=False)  # held already
    lock.release()
    assert (tmp_path / ".lock").read_text() == ""


def test_what_is_no_run_folder_stays_as_it_is(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        lock = RunLock(folder)
        lock.acquire(create=False)
        lock.release()
    assert list(tmp_path.iterdir()) == []


def without_locks(number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_file_system_without_locks_is_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "flock", without_locks(errno.ENOLCK))
    RunLock(tmp_path).acquire(create=True)
    assert f"{tmp_path}: No locks available; a second run of this name would not be noticed" in caplog.text
    monkeypatch.setattr(fcntl, "flock", without_locks(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        RunLock(tmp_path).acquire(create=True)
