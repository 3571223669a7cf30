"""What ranks say to each other, and that none of them waits for one that has died."""

import os
import signal
import socket
import threading
import time

import pytest

from grpo.distributed import failure_detection as ranks
from grpo.distributed.communicator import Communicator, check_divisible
from grpo.distributed.failure_detection import Failure, OtherRankFailed, ranks_per_node
from grpo.errors import UserError
from tests.helpers.many_ranks import free_port, run_ranks


def talk(comm):
    return {
        "even": comm.shard(range(6)),
        "uneven": comm.shard(range(5), even=False),
        "joined": comm.gather(comm.shard(range(5), even=False)),
        "sum": comm.sum([comm.rank + 1, 0.5]),
        "lead": comm.on_rank0(lambda: f"said by {comm.rank}"),
        "first": comm.local_main_first(time.monotonic),
    }


def test_three_ranks_share_and_join_again():
    ran = [rank.value for rank in run_ranks(talk, world=3)]
    assert [rank["even"] for rank in ran] == [[0, 1], [2, 3], [4, 5]]
    assert [rank["uneven"] for rank in ran] == [[0], [1, 2], [3, 4]]
    for rank in ran:
        assert rank["joined"] == [0, 1, 2, 3, 4]
        assert rank["sum"] == [6.0, 1.5]
        assert rank["lead"] == "said by 0"
    assert ran[0]["first"] < min(ran[1]["first"], ran[2]["first"])


def test_alone_says_the_same():
    alone = talk(Communicator())
    assert alone["even"] == list(range(6))
    assert (alone["joined"], alone["sum"], alone["lead"]) == ([0, 1, 2, 3, 4], [1, 0.5], "said by 0")


def share_seven(comm):
    comm.shard(range(7))


def test_a_batch_that_cannot_be_shared():
    for rank in run_ranks(share_seven):
        assert "7 cannot be shared equally by 2 ranks; valid: 6 or 8, or 1 or 7 ranks" in str(rank.value) + rank.said
    check_divisible(8, 2, "x")
    with pytest.raises(UserError, match=r"x = 1 cannot be shared equally by 2 ranks; valid: 2, or 1 rank$"):
        check_divisible(1, 2, "x")


def one_fails(comm, how, bad=1):
    ranks.HEARTBEAT_TIMEOUT, ranks.FAILURE_GRACE = 3.0, 1.0
    comm.barrier()
    if comm.rank == bad and how == "raises":
        raise UserError("data.jsonl:7: answers is missing")
    if comm.rank == bad:
        os.kill(os.getpid(), signal.SIGKILL if how == "is killed" else signal.SIGSTOP)
    comm.barrier()


@pytest.mark.parametrize("bad", [0, 1])
def test_a_rank_that_fails_ends_the_other_with_its_own_error(bad):
    """The other waits in a collective call that would last for hours: it ends with the status of the first error.

    Rank 0 says it for both of this node.
    """
    ran = run_ranks(one_fails, "raises", bad)
    failed, waiting = ran[bad], ran[1 - bad]
    assert isinstance(failed.value, UserError)
    text = f"rank {bad}: error: data.jsonl:7: answers is missing"
    assert (waiting.code, waiting.said.count(text)) == (2, bad) or str(waiting.value) == text


@pytest.mark.parametrize("how", ["is killed", "is stopped"])
def test_without_rank_0_and_its_store_the_other_ends(how):
    """Stopped, it keeps its connections: the other's calls of the store return no more. It leads its node too, so the
    other speaks for it."""
    gone, left = run_ranks(one_fails, how, 0, grace=60.0 if how == "is killed" else 0.0)
    assert gone.code == (-signal.SIGKILL if how == "is killed" else None)
    text = "rank 0: it is gone, and the store with it" if how == "is killed" else "rank 0: no sign of life for 3 s"
    assert text in f"{left.value} {left.said}"


def test_a_rank_that_is_killed_is_named():
    """It can say nothing itself; the others must not blame their connection."""
    left, killed = run_ranks(one_fails, "is killed")
    assert killed.code == -signal.SIGKILL
    assert isinstance(left.value, OtherRankFailed)
    assert left.value.failure == Failure(1, 1, "it ended without a word")


def the_last_work_is_long(comm):
    ranks.HEARTBEAT_TIMEOUT, ranks.FAILURE_GRACE = 4.0, 1.0
    comm.on_abort(lambda: time.sleep(9.0))
    comm.barrier()
    if comm.rank == 1:
        raise UserError("data.jsonl:7: answers is missing")
    comm.barrier()


def test_a_rank_whose_last_work_is_long_is_not_taken_for_a_silent_one():
    """A checkpoint on its way to the disk, for example: the status is the first error's, and nobody blames rank 0."""
    waiting, _ = run_ranks(the_last_work_is_long)
    assert waiting.code == 2 or str(waiting.value) == "rank 1: error: data.jsonl:7: answers is missing"
    assert "no sign of life" not in waiting.said


def rank_1_fails_while_rank_0_is_stopped(comm):
    ranks.HEARTBEAT_TIMEOUT, ranks.FAILURE_GRACE = 2.0, 1.0
    comm.barrier()
    if comm.rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.5)
    raise UserError("data.jsonl:7: answers is missing")


def test_a_rank_that_fails_while_rank_0_is_stopped_ends_all_the_same():
    _, failed = run_ranks(rank_1_fails_while_rank_0_is_stopped, grace=0.0)
    assert failed.code == 2
    assert "stopped: rank 1: error: data.jsonl:7: answers is missing" in failed.said


def one_ends_all(comm):
    ranks.FAILURE_GRACE = 1.0
    comm.barrier()
    if comm.rank == 1:  # a watchdog's thread, while the main thread hangs
        threading.Thread(target=comm.abort, args=(124, "score lasts 999 s")).start()
        time.sleep(600)
    comm.barrier()


def test_a_thread_of_one_rank_ends_them_all():
    waiting, hanging = run_ranks(one_ends_all)
    assert hanging.code == 124
    ended = waiting.code == 124 and "stopped: rank 1: score lasts 999 s" in waiting.said
    assert ended or waiting.value.failure == Failure(1, 124, "score lasts 999 s")  # where its connection was faster


def test_a_rank_that_no_longer_answers_is_missed():
    """Its process is there and its connections are open, as when a node has lost its network."""
    left, stopped = run_ranks(one_fails, "is stopped", grace=0.0)
    assert left.code == 1
    assert stopped.code is None
    assert "stopped: rank 1: no sign of life for 3 s" in left.said


def test_a_port_in_use(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        message = rf"port {port} of 127.0.0.1 cannot be used .*--master_port={port + 1}"
        with pytest.raises(UserError, match=message), ranks.init_distributed():
            pass


def a_stranger_comes(comm, world):
    port = int(os.environ["MASTER_PORT"])
    if comm.rank == 1:
        message = rf"rank 1: at 127.0.0.1:{port} is another run; .*--master_port={port + 1}"
        with pytest.raises(UserError, match=message):
            ranks._rendezvous("127.0.0.1", port, 1, world)
    return comm.sum([1.0])


@pytest.mark.parametrize("world", [2, 4])
def test_a_rank_of_another_run_at_the_same_port_harms_nobody(world):
    assert [ran.value for ran in run_ranks(a_stranger_comes, world)] == [[2.0], [2.0]]


def test_ranks_that_do_not_come(monkeypatch):
    monkeypatch.setattr(ranks, "RENDEZVOUS_TIMEOUT", 1.0)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"1 of 2 ranks came to 127.0.0.1:\d+ within 1 s"), ranks.init_distributed():
        pass


def test_the_ranks_of_a_node_by_whatever_launcher(monkeypatch):
    for name in ("LOCAL_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_per_node(4) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # torchrun
    assert ranks_per_node(16) == 2
    monkeypatch.setenv("LOCAL_SIZE", "8")  # deepspeed
    assert ranks_per_node(16) == 8
