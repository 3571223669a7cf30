"""A run that was killed goes on as if nothing had happened: the same weights, logs and rollouts, bit by bit."""

import json
import os
import random
import signal

import pytest

from grpo.signals import StopRequest
from tests.faults import train
from tests.forked import forked

# These are behind the first checkpoint. `make test-faults` tries KILLS of them.
KILLED_AT = [0.5, 0.75, 0.95] + [random.Random(n).random() for n in range(int(os.environ.get("KILLS", "0")))]
TIMINGS = ("time/", "memory/", "count/tokens_per_s", "perf/mfu", "perf/tokens_per_second", "perf/equivalent_per_second")


def left(home):
    """What a finished run is judged by: the weights and the files, but for what was measured by a clock."""
    run = home / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": (run / "model" / "model.safetensors").read_bytes(),
        "metrics": [{k: v for k, v in row.items() if not k.startswith(TIMINGS)} for row in rows],
        **{name: (run / name).read_text() for name in ("rollouts.jsonl", "held_out.jsonl", "notes.jsonl")},
        "folders": sorted(path.name for path in run.iterdir() if path.is_dir()),
    }


def checkpoints(home):
    return sorted(path.name for path in (home / "run" / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    home = tmp_path_factory.mktemp("straight")
    ended = train(home)
    assert ended.code == 0, ended.said
    return home, ended, left(home)


def test_a_straight_run_learns_and_leaves_no_checkpoint(straight):
    """So that the comparisons below can fail."""
    home, _, found = straight
    assert [row["step"] for row in found["metrics"]] == [0, 1, 2, 3]
    assert all(row["policy/skipped"] == 0 for row in found["metrics"])
    assert found["folders"][-1] == "model"
    assert (home / "run").stat().st_mode & 0o777 == 0o700
    assert all(row["policy/grad_norm"] > 0 for row in found["metrics"])


def test_killed_while_it_scores_and_gone_on_with(straight, tmp_path):
    killed = train(tmp_path, fault="SIGKILL:5")  # two groups a step: the third step
    assert killed.code == -signal.SIGKILL
    assert checkpoints(tmp_path)
    again = train(tmp_path)
    assert again.code == 0, again.said
    assert "goes on      from" in again.said
    assert left(tmp_path) == straight[2]


@pytest.mark.parametrize("share", KILLED_AT)
def test_killed_while_it_touches_a_file(straight, tmp_path, share):
    """At this share of all the times that a run does. Before the first checkpoint is whole there is nothing to go on
    from, and it begins anew; a run that is through is refused and left."""
    killed = train(tmp_path, kill_at=1 + int(share * straight[1].touched))
    assert killed.code == -signal.SIGKILL, killed.said
    there = checkpoints(tmp_path)
    again = train(tmp_path)
    if not there and again.code == 2:
        assert "not overwritten" in again.said
        return
    assert again.code == 0, again.said
    assert left(tmp_path) == straight[2]


def test_asked_to_end_it_finishes_the_step_and_saves(straight, tmp_path):
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
    plateau = ("--gate.when=plateau", "--gate.window=1", "--gate.tolerance=100")
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
    never = train(tmp_path, "--checkpoint.resume=never")
    assert never.code == 2
    assert "this run exists and is not overwritten" in never.said
    assert sorted((path, path.stat().st_size) for path in (tmp_path / "run").rglob("*")) == before


def test_a_finished_run_is_refused(straight):
    home, _, found = straight
    assert "not overwritten" in train(home).said
    assert left(home) == found


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_the_first_signal_is_remembered(name, capfd):
    request = StopRequest()
    before = signal.getsignal(signal.Signals[name])
    with request.listening():
        assert request.name == ""
        os.kill(os.getpid(), signal.Signals[name])
        assert request.name == name
    assert signal.getsignal(signal.Signals[name]) == before
    assert f"{name}: this step is finished and saved" in capfd.readouterr().err


def two_ctrl_c(file):
    with StopRequest().listening():
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
