"""When a run is saved: on the way, when its engine is lost, and not where there is no room; in this process."""

import os
import resource
import shutil
import signal
import threading
import time
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch

from grpo.checkpointing import store
from grpo.distributed.communicator import Communicator
from grpo.errors import EngineDied, Stopped, UserError
from grpo.policy.optimizer_state import OptimizerSnapshot
from grpo.rollout.hf import HfRollout
from launch.runs import monitor, resume
from launch.runs.monitor import TrainingMonitor
from tests.helpers.toy import ByteTokenizer
from tests.helpers.toy_training import ToyRun, low_bytes


class Lost(HfRollout):
    """An engine whose server goes away before the third step."""

    def generate(self, prompts, sampling, *, seed):
        if self._version == 2:
            raise EngineDied("the rollout server at port 8011 is lost")
        return super().generate(prompts, sampling, seed=seed)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return ToyRun(tmp_path_factory.mktemp("straight"), every=0).train()


@pytest.mark.parametrize(("every", "keep", "there"), [(1, 2, [3, 4]), (3, 5, [3, 4]), (2, 1, [4]), (0, 2, [])])
def test_saved_as_often_as_wanted_and_at_the_end(straight, tmp_path, every, keep, there):
    kept = ToyRun(tmp_path, every=every, keep=keep, background=every != 3)
    assert torch.equal(kept.train(), straight)  # saving changes nothing
    assert kept.there == there


def test_a_lost_engine_ends_the_run_saved_and_it_goes_on_bitwise(straight, tmp_path):
    lost = ToyRun(tmp_path, every=0)
    with pytest.raises(EngineDied, match=r"port 8011 is lost; saved after step 2, .*step-000002; the same command"):
        lost.train(engine=Lost)
    found = store.latest_valid(tmp_path / "checkpoints")
    later = ToyRun(tmp_path)
    assert later.train(start=later.checkpoints.restore(found)).equal(straight)
    assert found.step == 2


def test_a_reward_that_fails_too_often_ends_the_run_saved(straight, tmp_path):
    calls = []

    def failing(example, completions):
        calls.append(example)
        if len(calls) == 5:  # two groups a step
            raise UserError("reward 'mine:f' failed in 3 of 20 calls")
        return low_bytes(example, completions)

    failed = ToyRun(tmp_path, every=0)
    with pytest.raises(UserError, match=r"failed in 3 of 20 calls$"):
        failed.train(score=failing)
    assert failed.said[-1].strip().startswith("saved after step 2, ")
    later = ToyRun(tmp_path)
    assert later.train(start=later.checkpoints.restore(store.latest_valid(tmp_path / "checkpoints"))).equal(straight)


class Ending(Communicator):
    """Whoever ends the process here is only listened to; the test goes on."""

    ended = ()

    def abort(self, code, text):
        self.ended = code, text


@pytest.mark.parametrize(("hangs_in", "saved", "of"), [("score", 3, ""), ("update", 2, " of 3")])
def test_a_run_that_hangs_ends_saved_where_its_weights_are_those_of_a_step(
    straight, tmp_path, fault, hangs_in, saved, of
):
    """In the fourth step. While the reward hangs, memory holds what step 3 left; in an update it does not."""
    fault(f"a run that hangs in {hangs_in}", steps=3 - saved)
    comm = Ending()
    kept = ToyRun(tmp_path, every=2, comm=comm)
    update = kept.policy.update

    def hangs(where):
        if (where, kept.policy.num_updates) in (("score", 3), ("update", 4)) and where == hangs_in and not comm.ended:
            watchdog = threading.Thread(target=kept.checkpoints.on_hang, args=(f"{where} lasts 999 s",))
            watchdog.start()
            watchdog.join()

    def score(example, completions):
        hangs("score")
        return low_bytes(example, completions)

    def slow_loss(loss):
        def wrapped(*about):
            hangs("update")
            return loss(*about)

        return wrapped

    kept.policy.update = lambda batch, loss, **more: update(batch, slow_loss(loss), **more)
    kept.train(score=score)
    path = tmp_path / "checkpoints" / f"step-{saved:06d}"
    assert comm.ended == (
        124,
        f"{hangs_in} lasts 999 s; saved after step {saved}{of}, {path}; the same command resumes from there",
    )
    shutil.rmtree(tmp_path / "checkpoints" / "step-000004")  # of the main thread, which went on
    later = ToyRun(tmp_path)
    found = store.latest_valid(tmp_path / "checkpoints")
    assert found.path == path
    assert later.train(start=later.checkpoints.restore(found)).equal(straight)


def test_a_request_to_end_in_the_step_that_opens_the_gate_is_heard(tmp_path):
    """The stage is over, and its model not yet written: that is for the next start."""
    kept = ToyRun(tmp_path, every=0)

    def gate(values):
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return len(seen) == 2

    seen = []
    with pytest.raises(Stopped, match=r"SIGTERM: saved after step 2, "):
        kept.train(gate=gate, watch=lambda step, groups, values: seen.append(step) or {})
    assert kept.there == [2]


def test_other_questions_do_not_go_on(tmp_path):
    ToyRun(tmp_path, steps=1).train()
    later = ToyRun(tmp_path, about="others")
    with pytest.raises(UserError, match="step-000001: the questions are not those that the run began with"):
        later.checkpoints.restore(store.latest_valid(tmp_path / "checkpoints"))


def test_a_disk_without_room_does_not_end_the_run(straight, tmp_path):
    kept = ToyRun(tmp_path, every=2, reserve=10**18)
    assert torch.equal(kept.train(), straight)
    assert kept.there == []
    told = [text.partition(": it takes")[0] for text in kept.said if text.startswith("no room")]
    assert told == ["no room      for a checkpoint of step 2", "no room      for a checkpoint of step 4"]


def test_a_file_that_cannot_grow_keeps_what_was_there(tmp_path, fault):
    """No file may grow beyond 20 kB: the embedding's fails half way, as on a full disk."""
    fault("a disk that is full in the middle of a checkpoint", steps=0)
    ToyRun(tmp_path, steps=1).train()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        kept = ToyRun(tmp_path, every=2)
        kept.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    failed = [text for text in kept.said if text.startswith("not saved    the checkpoint of step 2: rank 0: ")]
    assert failed
    assert "File too large" in failed[0]
    assert kept.there == [1]
    assert not list((tmp_path / "checkpoints").glob(".*"))  # nothing half is left to fill the disk
    assert store.latest_valid(tmp_path / "checkpoints").step == 1


def test_what_had_no_room_is_written_when_there_is_some(straight, tmp_path):
    """Not at the next multiple of `every` only."""
    kept = ToyRun(tmp_path, every=2, keep=5, reserve=10**18)

    def watch(step, groups, values):
        if step == 2:
            kept.checkpoints.reserve = 0
        return {}

    assert torch.equal(kept.train(watch=watch), straight)
    assert kept.there == [3, 4]
    assert sum(text.startswith("no room") for text in kept.said) == 1


def test_a_best_model_without_room_is_left_out(tmp_path, monkeypatch):
    kept = ToyRun(tmp_path)
    tokenizer = ByteTokenizer()
    tokenizer.save_pretrained = lambda path: None
    engines = SimpleNamespace(base="", policy=kept.policy, codec=SimpleNamespace(tokenizer=tokenizer, stop_ids=(0,)))
    recipe = SimpleNamespace(held_out=SimpleNamespace(best_by="right"), checkpoint=SimpleNamespace(every=1))
    about = {"comm": Communicator(), "console": kept.log.console, "log": kept.log}
    run = SimpleNamespace(folder=tmp_path, recipe=recipe, **about)
    watcher = TrainingMonitor(run, engines, None)
    monkeypatch.setattr(monitor, "RESERVE", 10**18)
    monkeypatch.setattr(monitor, "model_bytes", lambda base: 1000)
    watcher._keep_best(1, "right", 50.0)
    assert not list(tmp_path.glob("*best-step-*"))
    assert kept.said[-1].startswith(f"no room      for {tmp_path / 'best-step-1'}: it takes 0.00 GB, ")
    monkeypatch.setattr(monitor, "RESERVE", 0)
    watcher._keep_best(2, "right", 40.0)  # the best of those that are kept
    assert [path.name for path in tmp_path.glob("*best-step-*")] == ["best-step-2"]


def test_logs_are_flushed_once_a_checkpoint(straight, tmp_path, monkeypatch):
    """Two files and two checkpoints in four steps; what they count is on the disk before they are sealed."""
    flushed = []

    def flush(file):
        flushed.append((file.name, kept.there))
        store.fsync(file)

    monkeypatch.setattr(resume, "fsync", flush)
    kept = ToyRun(tmp_path, every=2)
    assert torch.equal(kept.train(), straight)
    assert flushed == [(name, there) for there in ([], [2]) for name in ("metrics.jsonl", "rollouts.jsonl")]


def test_a_checkpoint_that_is_whole_is_not_called_lost(straight, tmp_path):
    """The one before it cannot be removed: something is in the way."""
    kept = ToyRun(tmp_path, every=2, keep=1, background=False)

    def watch(step, groups, values):
        if step == 3:
            (tmp_path / "checkpoints" / ".step-000002.writing" / "full").mkdir(parents=True)
        return {}

    assert torch.equal(kept.train(watch=watch), straight)
    assert kept.there == [2, 4]
    said = [text for text in kept.said if text.startswith("not ")]
    assert len(said) == 1
    assert said[0].startswith("not removed  checkpoints older than step 4, which is complete: ")


class Late(OptimizerSnapshot):
    """Asks the run to end while it is written."""

    def contents(self, name):
        if name == "state.json":
            time.sleep(0.3)  # the loop is through by then, and waits
            os.kill(os.getpid(), signal.SIGTERM)
        return super().contents(name)


@pytest.fixture
def heard():
    """Requests to end that reach the process while the run does not listen: here they do not end it."""
    numbers = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def late(kept):
    """Its first checkpoint that is written after the third step comes late."""
    hold = kept.policy.snapshot_state

    def held(copies=None):
        found = hold(copies)
        return Late(**{f.name: getattr(found, f.name) for f in fields(found)}) if found.num_updates > 1 else found

    kept.policy.snapshot_state = held
    return kept


def test_asked_to_end_while_the_last_checkpoint_is_written_it_is_finished_first(straight, tmp_path, heard):
    kept = late(ToyRun(tmp_path, every=4))
    with pytest.raises(Stopped, match=r"^SIGTERM: saved after step 4, .*step-000004; the same command"):
        kept.train()
    assert (kept.there, heard) == ([4], [])
    later = ToyRun(tmp_path)
    assert later.checkpoints.restore(store.latest_valid(tmp_path / "checkpoints")) == 4
    assert torch.equal(later.train(start=4), straight)


class Asked(Communicator):
    """Is asked to end after all ranks have told, at the last step's end, that nobody has asked."""

    gathered = 0

    def gather(self, items):
        self.gathered += 1
        if self.gathered == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return list(items)


def test_asked_to_end_after_the_last_step_it_is_saved(tmp_path, heard):
    kept = ToyRun(tmp_path, every=0, comm=Asked())
    with pytest.raises(Stopped, match=r"^SIGTERM: saved after step 4, "):
        kept.train()
    assert (kept.there, heard) == ([4], [])
