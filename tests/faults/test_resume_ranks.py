"""Two ranks of ZeRO-2 and ZeRO-3, one of them killed: the run goes on bitwise, and also with one rank alone."""

import os
import signal
import time

import pytest

from tests.helpers.faults import argv, armed, checkpoints, left, seconds_until, steps_to_make_again, train, what_is_left
from tests.helpers.installed import need
from tests.helpers.kills import Kill, kill_at, named, random_kills
from tests.helpers.many_ranks import run_ranks

# One after the other, where a run goes on: each lets at most one step be made.
AGAIN = {2: [Kill("torn", at=2, rank=1), Kill("clear")], 3: []}
LONG = [(zero, *kill) for zero in (2, 3) for kill in random_kills(f"two ranks of ZeRO-{zero}")]
NONE = [pytest.param(0, "", 0.0, 0, marks=pytest.mark.skip(reason="`make test-faults` tries KILLS of them"))]


def stage(comm, home, arguments, fault, kill):
    """One rank of `launch/train.py`; `fault` is rank 1's. What it came to."""
    from grpo.distributed import failure_detection as ranks
    from grpo.telemetry.console import Console
    from launch import train

    os.environ["FAULT"] = fault if comm.rank == 1 else ":0"
    ranks.FAILURE_GRACE = 1.0  # seconds that one rank waits for the other to hear how it died
    places = armed(home, rank=comm.rank, kill=kill if kill and kill.rank == comm.rank else None)
    train.train(argv(home, *arguments), comm, Console())
    return places.seen


def train_on_two(home, *arguments, fault=":0", kill=None, grace=60.0):
    (home / "began").unlink(missing_ok=True)
    return run_ranks(stage, home, arguments, fault, kill, grace=grace)


def through(ranks):
    """What each rank came to, all of which are through."""
    for rank in ranks:
        assert (type(rank.value), rank.code) == (dict, 0), f"{rank.value!r} {rank.said}"
    return [rank.value for rank in ranks]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """ZeRO's stage -> what a run leaves that was never killed, and what its ranks came to."""
    need("deepspeed")
    made = {}

    def of(zero):
        if zero not in made:
            home = tmp_path_factory.mktemp(f"zero-{zero}")
            seen = through(train_on_two(home, f"--policy.zero_stage={zero}"))
            made[zero] = left(home), seen
        return made[zero]

    return of


@pytest.mark.parametrize("zero", [2, 3])
def test_a_rank_is_killed_and_both_go_on_bitwise(straight, tmp_path, fault, zero):
    fault(named("score"), world=f"two ranks of ZeRO-{zero}")
    # A group a step, so in the third step.
    zeroth, first = train_on_two(tmp_path, f"--policy.zero_stage={zero}", fault="SIGKILL:3")
    assert first.code == -signal.SIGKILL
    assert "it ended without a word" in f"{zeroth.value!r} {zeroth.said}"
    assert checkpoints(tmp_path)[-1] in ("step-000001", "step-000002")
    for kill in AGAIN[zero]:  # the rank that is left is killed with it, as by a launcher
        ran = train_on_two(tmp_path, f"--policy.zero_stage={zero}", kill=kill, grace=0.0)
        assert ran[kill.rank].code == -signal.SIGKILL, (kill, ran)
    steps, started = steps_to_make_again(tmp_path), time.monotonic()
    through(train_on_two(tmp_path, f"--policy.zero_stage={zero}"))
    fault(steps=steps, seconds=seconds_until(tmp_path, started))
    assert left(tmp_path) == straight(zero)[0]


@pytest.mark.parametrize(("zero", "place", "share", "number"), LONG or NONE)
def test_killed_at_a_place(straight, tmp_path, fault, zero, place, share, number):
    """Every second time with the other rank, which else ends by itself."""
    fault(named(place), world=f"two ranks of ZeRO-{zero}")
    wanted, seen = straight(zero)
    rank = number % 2 if place in seen[1] else 0
    kill = kill_at(place, share, seen[rank], rank=rank)
    ran = train_on_two(tmp_path, f"--policy.zero_stage={zero}", kill=kill, grace=60.0 * (number // 2 % 2))
    assert ran[kill.rank].code == -signal.SIGKILL, (kill, ran)
    steps, started = steps_to_make_again(tmp_path), time.monotonic()
    again = train_on_two(tmp_path, f"--policy.zero_stage={zero}")
    code = 0 if all(isinstance(rank.value, dict) for rank in again) else 2
    said = " ".join(f"{rank.value!r} {rank.said}" for rank in again)
    assert what_is_left(tmp_path, code, said) == wanted
    fault(steps=steps, seconds=seconds_until(tmp_path, started))


def test_one_rank_is_asked_to_end_and_both_do(tmp_path, fault):
    """The signal reaches rank 1 alone; both save, and one process goes on from what two have written."""
    need("deepspeed")
    fault("SIGTERM in a step", world="two ranks of ZeRO-2", steps=0)
    ranks = train_on_two(tmp_path, fault="SIGTERM:2")
    for rank in ranks:
        assert "SIGTERM: saved after step 2, " in f"{rank.value!r} {rank.said}"
    assert checkpoints(tmp_path) == ["step-000001", "step-000002"]
    again = train(tmp_path)
    assert again.code == 0, again.said
    assert "written by 2 ranks" in again.said
    assert [row["step"] for row in left(tmp_path)["metrics"]] == [0, 1, 2, 3]


def test_sampler_and_trainer_are_compared_where_no_group_teaches(tmp_path):
    """Of two ranks under ZeRO-3, each of which runs the model over one group, together."""
    need("deepspeed")
    parts = ('"tests.helpers.faults:low_bytes"', "exact_match", "citation", "format", "tag_count")
    nothing = f"--reward.weights={{{','.join(f'{part}=0.0' for part in parts)}}}"
    through(train_on_two(tmp_path, "--policy.zero_stage=3", "--policy.dtype=float32", nothing))
    rows = left(tmp_path)["metrics"]
    assert [row["policy/skipped"] for row in rows] == [1.0, 1.0, 1.0, 1.0]
    assert max(row["policy/mismatch"] for row in rows) < 1e-5
