"""The same command again, where a run was killed before its first checkpoint, or when it was finished."""

import json
import os
import signal
import threading

import pytest

from grpo.checkpointing.store import remove_all
from grpo.config import load
from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.config.recipe import Recipe
from launch.runs.resume import check_same_recipe, has_finished
from launch.runs.run import Run, check_writable, save_recipe
from tests.helpers.faults import train
from tests.helpers.kills import Kill

SHORT = ("--run.steps=1", "--held_out.every=0", "--held_out.questions=0")


def test_killed_before_its_first_checkpoint_it_begins_again_in_place(tmp_path):
    assert train(tmp_path, *SHORT, fault="SIGKILL:1").code == -signal.SIGKILL
    before = sorted(tmp_path.glob("run*/**/*"))
    never = train(tmp_path, *SHORT, "--checkpoint.resume=never")
    assert never.code == 2
    assert "run: this run exists and is not overwritten" in never.said
    other = train(tmp_path, *SHORT, "--optim.lr=0.02")
    assert other.code == 2
    assert "the run was begun with optim.lr = 0.01, now it is 0.02; valid: " in other.said
    assert sorted(tmp_path.glob("run*/**/*")) == before
    (tmp_path / "run" / "metrics.jsonl").write_text("of the killed run\n")
    again = train(tmp_path, *SHORT)
    assert again.code == 0, again.said
    assert f"begins again {tmp_path / 'run'}: a run without a checkpoint" in again.said
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0]
    assert has_finished(tmp_path / "run")


ASKED = Kill("update", at=1, number=signal.SIGTERM)


@pytest.mark.parametrize(("kill", "code"), [(Kill("update", at=1), -signal.SIGKILL), (ASKED, 75)])
def test_the_warm_up_resumes_too(tmp_path, kill, code):
    """Killed or asked to end in its second step; the same command then finishes warm-up and run."""
    arguments = (
        *SHORT,
        "--sft.steps=3",
        "--sft.examples_per_step=2",
        "--checkpoint.every=1",
        "--checkpoint.background=false",
    )
    (tmp_path / "straight").mkdir()
    straight = train(tmp_path / "straight", *arguments)
    assert straight.code == 0, straight.said
    killed = train(tmp_path, *arguments, kill=kill)
    assert killed.code == code, killed.said
    again = train(tmp_path, *arguments)
    assert again.code == 0, again.said
    assert "resumes      from" in again.said
    (one,), (other,) = (home.glob("sft-*/model/model.safetensors") for home in (tmp_path / "straight", tmp_path))
    assert one.read_bytes() == other.read_bytes()
    metrics = [json.loads(line)["step"] for line in (other.parents[1] / "metrics.jsonl").read_text().splitlines()]
    assert metrics == [0, 1, 2]


def test_two_runs_share_a_warm_up_at_the_same_time(tmp_path):
    """The second waits for the first, and takes its model; both finish."""
    ended = {}
    arguments = (*SHORT, "--sft.steps=3", "--sft.examples_per_step=2")
    train(
        tmp_path, *arguments, "--run.steps=0", "--run.name=no", "--optim.lr=-1"
    )  # writes the data file, and is refused

    def run(name):
        (tmp_path / name).mkdir()
        ended[name] = train(tmp_path / name, *arguments, f"--run.folder={tmp_path}", f"--run.name={name}-run",
                            f"--data.source={tmp_path / 'data.jsonl'}")  # fmt: skip

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, done in ended.items():
        assert done.code == 0, done.said
        assert has_finished(tmp_path / f"{name}-run")
    assert len(list(tmp_path.glob("sft-*"))) == 1
    assert sum("supervised steps" in done.said for done in ended.values()) == 1


def begun(folder, *arguments):
    """The recipe of a run whose folder is there, and that has made no step."""
    recipe = load(Recipe, [f"--run.folder={folder.parent}", f"--run.name={folder.name}", *arguments])
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    save_recipe(recipe, folder)
    return recipe


def found(recipe, folder):
    """The checkpoint that the run would resume from."""
    with Run(recipe, comm=Communicator(), console=Console(), folder=folder) as run:
        return run.checkpoint


def test_killed_while_its_folder_was_made(tmp_path):
    """Without a whole recipe there is nothing that could be lost; what is no run is left alone."""
    run, recipe = tmp_path / "run", load(Recipe, [])
    run.mkdir()
    assert found(recipe, run) is None
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="run: this run exists and is not overwritten"):
        found(recipe, run)
    (run / ".lock").touch()
    assert found(recipe, run) is None


@pytest.mark.parametrize("left", ["checkpoints", ".checkpoints.removing"])
def test_killed_while_it_removed_its_checkpoints_a_finished_run_is_refused_without_them(tmp_path, left):
    run = tmp_path / "run"
    recipe = begun(run)
    (run / "model").mkdir()
    there = sorted(run.iterdir())
    (run / left / "step-000002").mkdir(parents=True)
    with pytest.raises(UserError, match="run: this run exists and is not overwritten"):
        found(recipe, run)
    assert sorted(run.iterdir()) == there
    remove_all(run / "checkpoints")  # nothing is there any more


def test_a_key_that_the_program_of_that_time_did_not_know_has_its_default(tmp_path):
    """And one that is known no more is told."""
    run = tmp_path / "run"
    recipe = begun(run, "--loss.clip_high=0.3")
    saved, argv = run / "recipe.toml", (f"--run.folder={recipe.run.folder}", f"--run.name={recipe.run.name}")
    whole = saved.read_text()
    saved.write_text(whole.replace("weight_decay = 0.0\n", "").replace('schedule = "cosine"\n', ""))
    assert len(saved.read_text()) < len(whole) - 20
    check_same_recipe(recipe, run)
    with pytest.raises(UserError, match=r"begun with optim.weight_decay = 0.0, now it is 0.5; valid"):
        check_same_recipe(load(Recipe, ["--loss.clip_high=0.3", "--optim.weight_decay=0.5", *argv]), run)
    saved.write_text(whole.replace("weight_decay = 0.0\n", "momentum = 0.9\n"))
    with pytest.raises(UserError, match=r"begun with optim.momentum = 0.9, now it is not set; valid"):
        check_same_recipe(recipe, run)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_found_first(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"run.folder: .* cannot be written to"):
        check_writable(tmp_path / "runs" / "a")


def test_a_file_in_the_place_of_the_folder_is_found_first(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match=r"run.folder: .*runs cannot be written to"):
        check_writable(tmp_path / "runs" / "a")
