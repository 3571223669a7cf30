"""A directory that exists complete or not at all."""

import os
from contextlib import suppress

from grpo.checkpointing.atomic_directory import LEFTOVER_SECONDS, atomic_directory


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_comes_complete_or_not_at_all(tmp_path):
    with suppress(ZeroDivisionError), atomic_directory(tmp_path / "runs" / "model") as work:
        (work / "file").write_text("a")
        raise ZeroDivisionError
    assert names(tmp_path / "runs") == []
    with atomic_directory(tmp_path / "runs" / "model") as work:
        (work / "file").write_text("a")
        assert not (tmp_path / "runs" / "model").exists()
    assert names(tmp_path / "runs") == ["model"]
    assert names(tmp_path / "runs" / "model") == ["file"]


def test_of_two_makers_the_first_wins(tmp_path):
    with atomic_directory(tmp_path / "model") as late:
        (late / "file").write_text("late")
        with atomic_directory(tmp_path / "model") as early:
            (early / "file").write_text("early")
    assert (tmp_path / "model" / "file").read_text() == "early"
    assert names(tmp_path) == ["model"]


def test_the_leftover_of_a_killed_process_goes_when_it_is_old(tmp_path):
    old, new = tmp_path / ".model.making-old", tmp_path / ".model.making-new"
    for leftover in (old, new):
        leftover.mkdir()
    os.utime(old, times=(0, os.stat(new).st_mtime - LEFTOVER_SECONDS - 1))
    with atomic_directory(tmp_path / "model"):
        pass
    assert names(tmp_path) == [".model.making-new", "model"]
