"""A folder that is made whole or not at all: what killed processes leave of one, and what is never removed."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from launch.runs.atomic_directory import beside

ROOT = Path(__file__).resolve().parents[3]
WRITES = """
import sys, time
from pathlib import Path
from launch.runs.atomic_directory import beside
with beside(Path(sys.argv[1])) as work:
    (work / "half").write_text("half")
    print("here", flush=True)
    time.sleep(600)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_comes_whole_or_not_at_all(tmp_path):
    with suppress(ZeroDivisionError), beside(tmp_path / "runs" / "model") as work:
        (work / "file").write_text("a")
        raise ZeroDivisionError
    assert names(tmp_path / "runs") == []
    with beside(tmp_path / "runs" / "model") as work:
        (work / "file").write_text("a")
        assert not (tmp_path / "runs" / "model").exists()
        work.rename(tmp_path / "runs" / "model")
    assert names(tmp_path / "runs") == ["model"]
    assert names(tmp_path / "runs" / "model") == ["file"]


def test_the_leftover_of_a_killed_process_goes_and_the_work_of_a_living_one_stays(tmp_path):
    command = [sys.executable, "-c", WRITES, str(tmp_path / "model")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "here\n"
            (half,) = tmp_path.glob(".making-*/model/half")
            with beside(tmp_path / "second"):
                assert half.read_text() == "half"
            assert half.exists()
        finally:
            other.kill()  # SIGKILL: nothing of its own is left to tidy up
        other.wait()
    assert half.exists()
    with beside(tmp_path / "third") as work:
        assert not half.parents[1].exists()
        assert names(tmp_path) == [work.parent.name]
    assert names(tmp_path) == []


def test_what_has_no_lock_is_not_a_leftover(tmp_path):
    """Of a process that was killed in its first instant, or on a file system without locks: its life cannot be told."""
    (tmp_path / ".making-x" / "model").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    with beside(tmp_path / "model"):
        pass
    assert names(tmp_path) == [".making-x", "mine"]
