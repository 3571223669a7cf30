"""A run that was killed goes on as if nothing had happened: the same weights, logs and rollouts, bit by bit."""

import os
import signal

import pytest

from grpo.checkpointing.stop_signal import StopSignal
from tests.helpers.disks import small_disk
from tests.helpers.faults import checkpoints, fill, left, steps_to_make_again, train, what_is_left
from tests.helpers.forked import forked
from tests.helpers.kills import Kill, kill_at, named, random_kills

# At these shares of all the times that a run touches a file, and at random points where KILLS says how many.
SHORT = [("touch", share, n) for n, share in enumerate((0.5, 0.75, 0.95))]
# One after the other. Each is behind a checkpoint, and lets at most one step be made.
AGAIN = [Kill("rollout", at=2), Kill("update"), Kill("sync"), Kill("save"), Kill("clear")]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    home = tmp_path_factory.mktemp("straight")
    ended = train(home)
    assert ended.code == 0, ended.said
    return home, ended.seen, left(home)


def test_a_straight_run_learns_and_leaves_no_checkpoint(straight):
    """So that the comparisons below can fail."""
    home, _, found = straight
    assert [row["step"] for row in found["metrics"]] == [0, 1, 2, 3]
    assert all(row["policy/skipped"] == 0 for row in found["metrics"])
    assert found["folders"][-1] == "model"
    assert (home / "run").stat().st_mode & 0o777 == 0o700
    assert all(row["policy/grad_norm"] > 0 for row in found["metrics"])
    assert set(found["last"]) > {"rank-0.json", "policy/00000.safetensors"}


@pytest.mark.parametrize(("place", "share", "number"), SHORT + random_kills("one process"))
def test_killed_at_a_place(straight, tmp_path, fault, place, share, number):
    fault(named(place), world="one process")
    killed = train(tmp_path, kill=kill_at(place, share, straight[1]))
    assert killed.code == -signal.SIGKILL, killed.said
    steps = steps_to_make_again(tmp_path)
    again = train(tmp_path)
    assert what_is_left(tmp_path, again.code, again.said) == straight[2]
    fault(steps=steps, seconds=again.began)


def test_killed_in_one_phase_after_the_other(straight, tmp_path, fault):
    """Each time where it goes on, in the end in a checkpoint's last moments."""
    fault("kill -9 in one phase after the other", world="one process", times=len(AGAIN))
    for kill in AGAIN:
        killed = train(tmp_path, kill=kill)
        assert killed.code == -signal.SIGKILL, (kill, killed.said)
        assert checkpoints(tmp_path), kill
    again = train(tmp_path)
    assert again.code == 0, again.said
    assert "resumes      from" in again.said
    assert left(tmp_path) == straight[2]


def test_with_its_newest_checkpoint_damaged_it_goes_on_from_the_one_before(straight, tmp_path, fault):
    fault("kill -9, and a file of the newest checkpoint cut off", world="one process")
    assert train(tmp_path, kill=Kill("update", at=3)).code == -signal.SIGKILL
    newest = tmp_path / "run" / "checkpoints" / checkpoints(tmp_path)[-1]
    os.truncate(newest / "policy" / "00000.safetensors", 1000)
    again = train(tmp_path)
    assert again.code == 0, again.said
    assert f"checkpoint passed over: {newest}: policy/00000.safetensors: has 1000 bytes of " in again.said
    assert left(tmp_path) == straight[2]
    fault(steps=4 - int(newest.name[-1]), seconds=again.began)


def test_with_a_line_of_its_log_lost_it_goes_on_from_the_checkpoint_before(straight, tmp_path, fault):
    """Which counts one step fewer, and that many lines are there."""
    fault("kill -9, and the last line of metrics.jsonl lost", world="one process")
    assert train(tmp_path, kill=Kill("update", at=3)).code == -signal.SIGKILL
    newest, log = checkpoints(tmp_path)[-1], tmp_path / "run" / "metrics.jsonl"
    rows = log.read_bytes().splitlines(keepends=True)[: int(newest[-1])]
    counted, short = b"".join(rows), b"".join(rows[:-1])
    log.write_bytes(short)
    again = train(tmp_path)
    assert again.code == 0, again.said
    lost = f"{log}: has {len(short)} bytes, and {len(counted)} at the checkpoint"
    assert f"checkpoint passed over: {tmp_path / 'run' / 'checkpoints' / newest}: {lost}" in again.said
    assert left(tmp_path) == straight[2]
    fault(steps=4 - int(newest[-1]) + 1, seconds=again.began)


def test_a_disk_that_another_program_fills(straight, tmp_path, fault):
    """In the third step: the run ends, and loses nothing that it had. With room again it goes on."""
    fault("a full disk, which ends the run")
    with small_disk(tmp_path / "disk", size="272m") as disk:  # 256 MiB must stay free, or no checkpoint is begun
        there = f"--run.folder={disk}"
        full = train(tmp_path, there, fault="full:5")
        assert full.code > 0, full.said
        assert "No space left on device" in full.said
        whole = checkpoints(disk)
        assert whole
        fill(disk)
        still = train(tmp_path, there)
        assert still.code > 0, still.said
        assert checkpoints(disk) == whole
        (disk / "of another program").unlink()
        steps = steps_to_make_again(disk)
        again = train(tmp_path, there)
        assert again.code == 0, again.said
        fault(steps=steps, seconds=again.began)
        assert left(disk) == straight[2]


def test_asked_to_end_it_finishes_the_step_and_saves(straight, tmp_path, fault):
    fault("SIGTERM in a step", world="one process", steps=0)
    asked = train(tmp_path, "--checkpoint.every=0", fault="SIGTERM:3")  # in the second step
    assert asked.code == 75, asked.said
    assert "stopped: SIGTERM: saved after step 2, " in asked.said
    assert checkpoints(tmp_path) == ["step-000002"]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    again = train(tmp_path)
    assert again.code == 0, again.said
    assert left(tmp_path) == straight[2]


def test_asked_to_end_in_the_step_that_opens_the_gate_it_writes_the_model_later(tmp_path):
    """The plateau of two steps is flat whatever they give. What goes on then makes no third step."""
    plateau = ("--stage_end.when=plateau", "--stage_end.window=1", "--stage_end.tolerance=100")
    asked = train(tmp_path, *plateau, fault="SIGTERM:3")  # in the second step
    assert asked.code == 75, asked.said
    assert "gate         open: " in asked.said
    assert not (tmp_path / "run" / "model").exists()
    again = train(tmp_path, *plateau)
    assert again.code == 0, again.said
    assert [row["step"] for row in left(tmp_path)["metrics"]] == [0, 1]
    assert left(tmp_path)["notes.jsonl"].count('"note": "gate"') == 1


def test_another_recipe_does_not_go_on(tmp_path):
    assert train(tmp_path, fault="SIGTERM:3").code == 75
    before = sorted((path, path.stat().st_size) for path in (tmp_path / "run").rglob("*"))
    refused = train(tmp_path, "--optim.lr=0.02", "--loss.clip_high=0.3")
    assert refused.code == 2
    wanted = "the run was begun with loss.clip_high = 0.2, now it is 0.3, and 1 more keys differ; valid: "
    assert wanted in refused.said
    assert sorted((path, path.stat().st_size) for path in (tmp_path / "run").rglob("*")) == before


def test_a_finished_run_is_refused(straight):
    home, _, found = straight
    assert "not overwritten" in train(home).said
    assert left(home) == found


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_the_first_signal_is_remembered(name, capfd):
    request = StopSignal()
    before = signal.getsignal(signal.Signals[name])
    with request.listening():
        assert request.name == ""
        os.kill(os.getpid(), signal.Signals[name])
        assert request.name == name
    assert signal.getsignal(signal.Signals[name]) == before
    assert f"{name}: this step is finished and saved, then the run ends" in capfd.readouterr().err


def two_ctrl_c(file):
    with StopSignal().listening():
        os.kill(os.getpid(), signal.SIGINT)
        file.write_text("still here")
        os.kill(os.getpid(), signal.SIGINT)
        file.write_text("and still")


def test_a_second_ctrl_c_ends_the_process_at_once(tmp_path):
    process = forked().Process(target=two_ctrl_c, args=(tmp_path / "said",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGINT
    assert (tmp_path / "said").read_text() == "still here"
