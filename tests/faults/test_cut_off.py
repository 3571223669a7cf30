"""The same command again, where a run was killed before its first checkpoint, or when it was through."""

import json
import signal

import pytest

from grpo.config import load
from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import make_run_folder
from launch.builders.assemble import save_recipe
from launch.config.recipe import Recipe
from launch.pipeline import Job
from launch.runs.lineage import write_stages
from launch.runs.resume import check_same, find, is_cut_off, set_aside
from launch.runs.run_lock import FolderLock
from tests.helpers.faults import train

SHORT = ("--run.steps=1", "--held_out.every=0", "--held_out.questions=0")


def test_killed_before_its_first_checkpoint_it_begins_anew(tmp_path):
    assert train(tmp_path, *SHORT, fault="SIGKILL:1").code == -signal.SIGKILL
    before = sorted(tmp_path.glob("run*/**/*"))
    never = train(tmp_path, *SHORT, "--checkpoint.resume=never")
    assert never.code == 2
    assert "run: this run exists and is not overwritten" in never.said
    other = train(tmp_path, *SHORT, "--optim.lr=0.02")
    assert other.code == 2
    assert "the run was begun with optim.lr = 0.01, now it is 0.02; valid: " in other.said
    assert sorted(tmp_path.glob("run*/**/*")) == before
    again = train(tmp_path, *SHORT)
    assert again.code == 0, again.said
    aside = tmp_path / "run.cut-off-1"
    assert f"set aside    {aside}: a run that was cut off before its first checkpoint" in again.said
    assert {path.name for path in aside.iterdir()} >= {"recipe.toml", "prompt.txt", "checkpoints"}
    assert not (aside / "metrics.jsonl").exists()
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0]
    assert (tmp_path / "run" / "model" / "stages.json").is_file()


def begun(folder, *arguments):
    """The folder of a run of this recipe that has made no step."""
    recipe = load(Recipe, [f"--run.folder={folder.parent}", f"--run.name={folder.name}", *arguments])
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    save_recipe(recipe, folder)
    write_stages(folder, ("stage1",))
    return recipe


def test_killed_while_its_folder_was_made(tmp_path):
    """The recipe there is not whole, and there is nothing that could be lost; what is no run is left alone."""
    run, recipe = tmp_path / "run", load(Recipe, [])
    run.mkdir(mode=0o755)
    assert find(recipe, run, Console()) is None
    assert not is_cut_off(recipe, run)
    assert make_run_folder(run).stat().st_mode & 0o777 == 0o700
    (run / "recipe.toml").write_text("[ru")
    for refused in (lambda: find(recipe, run, Console()), lambda: make_run_folder(run)):
        with pytest.raises(UserError, match="run: this run exists and is not overwritten"):
            refused()
    (run / ".lock").touch()
    assert find(recipe, run, Console()) is None
    assert is_cut_off(recipe, run)
    assert set_aside(run, FolderLock(run)) == tmp_path / "run.cut-off-1"
    assert not is_cut_off(recipe, run)


@pytest.mark.parametrize("left", ["checkpoints", ".checkpoints.removing"])
def test_killed_while_it_removed_its_checkpoints_a_finished_run_is_refused_without_them(tmp_path, left):
    """It is not gone on with, which would end where the model is written again. A chain of runs takes it as it is."""
    run = tmp_path / "run"
    recipe = begun(run)
    (run / "model").mkdir()
    write_stages(run / "model", ("stage1",))
    there = sorted(run.iterdir())
    (run / left / "step-000002").mkdir(parents=True)
    with pytest.raises(UserError, match="run: this run exists and is not overwritten"):
        find(recipe, run, Console())
    assert sorted(run.iterdir()) == there
    assert Job.of(*argv(recipe)).is_finished()


def argv(recipe):
    return [f"--run.folder={recipe.run.folder}", f"--run.name={recipe.run.name}"]


def test_a_key_that_the_program_of_that_time_did_not_know_has_its_default(tmp_path):
    """And one that is known no more is told."""
    run = tmp_path / "run"
    recipe = begun(run, "--loss.clip_high=0.3")
    saved = run / "recipe.toml"
    whole = saved.read_text()
    saved.write_text(whole.replace("max_grad_norm = 1.0\n", "").replace('schedule = "cosine"\n', ""))
    assert len(saved.read_text()) < len(whole) - 20
    check_same(recipe, run)
    with pytest.raises(UserError, match=r"begun with optim.max_grad_norm = 1.0, now it is 0.5; valid"):
        check_same(load(Recipe, ["--loss.clip_high=0.3", "--optim.max_grad_norm=0.5", *argv(recipe)]), run)
    saved.write_text(whole.replace("max_grad_norm = 1.0\n", "momentum = 0.9\n"))
    with pytest.raises(UserError, match=r"begun with optim.momentum = 0.9, now it is not set; valid"):
        check_same(recipe, run)
