"""Two runs cannot write into one folder, and a dead one keeps nobody out."""

import os
import signal

import pytest

from grpo.types import InputError
from launch.chain import set_aside
from launch.locking import FolderLock
from tests.forked import forked


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
        with pytest.raises(InputError, match=wanted), FolderLock(tmp_path) as lock:
            lock.take(create=False)
    with pytest.raises(InputError, match=wanted):
        set_aside(tmp_path)  # not cut off: still at it
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
