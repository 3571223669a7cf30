"""Two runs cannot write into one folder, and a dead one keeps nobody out."""

import errno
import fcntl
import os
import signal

import pytest

from grpo.errors import UserError
from launch.runs.resume import set_aside
from launch.runs.run_lock import FolderLock
from tests.helpers.forked import forked


def hold(folder, held):
    with FolderLock(folder) as lock:
        lock.take(create=True)
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


def test_the_process_that_is_at_it_is_named(tmp_path, other):
    wanted = rf"{tmp_path}: process {other.pid} on \S+ writes into this run; valid: .* --run.name={tmp_path.name}-2 "
    for _ in range(2):  # asking does not take it away
        with pytest.raises(UserError, match=wanted), FolderLock(tmp_path) as lock:
            lock.take(create=False)
    with pytest.raises(UserError, match=wanted):
        set_aside(tmp_path, FolderLock(tmp_path))  # not cut off: still at it
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with FolderLock(tmp_path) as lock:
        lock.take(create=False)
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        lock.take(create=False)  # it has it
    assert (tmp_path / ".lock").read_text() == ""


def test_what_is_no_run_folder_stays_as_it_is(tmp_path):
    with FolderLock(tmp_path) as lock:
        lock.take(create=False)
    with FolderLock(tmp_path / "none") as lock:
        lock.take(create=False)
    assert list(tmp_path.iterdir()) == []


def test_the_run_that_follows_one_that_was_set_aside_is_locked_too(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with FolderLock(run) as lock:
        lock.take(create=True)
        assert set_aside(run, lock) == tmp_path / "run.cut-off-1"
        assert not lock.held
        run.mkdir()
        lock.take(create=True)
        with pytest.raises(UserError, match=f"{run}: process {os.getpid()} on "):
            FolderLock(run).take(create=False)
        FolderLock(tmp_path / "run.cut-off-1").take(create=False)  # nobody's


def without_locks(number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_file_system_without_locks_is_told_of_once(tmp_path, monkeypatch):
    """Nobody knows there whether a run is alive, so none is set aside."""
    said = []
    monkeypatch.setattr(fcntl, "flock", without_locks(errno.ENOLCK))
    with FolderLock(tmp_path, tell=said.append) as lock:
        for _ in range(2):
            lock.take(create=True)
        assert not lock.held
        with pytest.raises(UserError, match="a file system without locks does not tell; valid: move it away"):
            set_aside(tmp_path, lock)
    assert said == [f"not locked   {tmp_path}: No locks available; nothing keeps a second run of this name out of it"]
    monkeypatch.setattr(fcntl, "flock", without_locks(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        FolderLock(tmp_path).take(create=True)
