"""Two ranks of ZeRO-2 and ZeRO-3, one of them killed: the run goes on bitwise, and also with one rank alone."""

import os
import signal

import pytest

from tests.faults import argv
from tests.installed import need
from tests.many_ranks import run_ranks
from tests.test_resume import checkpoints, left


def stage(comm, home, arguments, fault):
    """One rank of `launch/train.py`; `fault` is rank 1's."""
    from launch import train

    os.environ |= {"FAULT": fault if comm.rank == 1 else ":0", "XDG_CACHE_HOME": str(home / "cache")}
    from grpo.runlog import Console

    train.train(argv(home, *arguments), comm, Console())


def train_on_two(home, *arguments, fault=":0"):
    return run_ranks(stage, home, arguments, fault, grace=60.0)


@pytest.mark.parametrize("zero", [2, 3])
def test_a_rank_is_killed_and_both_go_on_bitwise(tmp_path, zero):
    need("deepspeed")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    for rank in train_on_two(straight, f"--policy.stage={zero}"):
        assert (rank.value, rank.code) == (None, 0), f"{rank.value!r} {rank.said}"
    zeroth, first = train_on_two(killed, f"--policy.stage={zero}", fault="SIGKILL:3")  # a group a step: the third step
    assert first.code == -signal.SIGKILL
    assert "it ended without a word" in f"{zeroth.value!r} {zeroth.said}"
    assert checkpoints(killed)[-1] in ("step-000001", "step-000002")
    for rank in train_on_two(killed, f"--policy.stage={zero}"):
        assert (rank.value, rank.code) == (None, 0), f"{rank.value!r} {rank.said}"
    assert left(killed) == left(straight)


def test_one_rank_is_asked_to_end_and_both_do(tmp_path):
    """The signal reaches rank 1 alone; both save, and one process goes on from what two have written."""
    need("deepspeed")
    from tests.faults import train

    ranks = train_on_two(tmp_path, fault="SIGTERM:2")
    for rank in ranks:
        assert "SIGTERM: saved after step 2, " in f"{rank.value!r} {rank.said}"
    assert checkpoints(tmp_path) == ["step-000001", "step-000002"]
    again = train(tmp_path)
    assert again.code == 0, again.said
    assert "written by 2 ranks" in again.said
    assert [row["step"] for row in left(tmp_path)["metrics"]] == [0, 1, 2, 3]
