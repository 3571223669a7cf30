"""From stage to stage: `launch/stages.py` on the tiny model, gates, and models that were never through a stage."""

import json
import sys

import pytest

from grpo.config import load
from grpo.errors import UserError
from launch import stages
from launch.chain import folder_of, launcher, wait_for
from launch.config.recipe import Recipe
from launch.runs.lineage import check_after, stages_of, write_stages
from launch.runs.resume import set_aside
from launch.runs.run_lock import FolderLock
from launch.stages import plan, read_arguments
from tests.helpers.forked import ROOT, run_program

STAGES = ["configs/stage1.toml", "configs/stage2.toml"]
SHORT = ["configs/models/tiny.toml", "--held_out.questions=0", "--sampling.max_tokens=4", "--run.steps=4"]


def train(home, *shared):
    environment = {"XDG_CACHE_HOME": str(home / "cache"), "WANDB_MODE": "", "WANDB_API_KEY": ""}
    return run_program(
        "launch.stages", [*STAGES, "--", *SHORT, f"--run.folder={home / 'runs'}", *shared], **environment
    )


def steps(run):
    return len((run / "metrics.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def through(home):
    """Stage 1 ends at its plateau (the tiny model gains nothing within two steps), stage 2 after refilled steps."""
    plateau = [
        "--stage_end.when=plateau",
        "--stage_end.window=1",
        "--stage_end.tolerance=100",
        "--sampling.dynamic=refill",
    ]
    done = train(home, *plateau, "--curriculum.order=difficulty")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_command_goes_through_both_stages(home, through):
    runs = home / "runs"
    assert stages_of(runs / "stage1-tiny" / "model") == ("sft", "stage1")
    assert stages_of(runs / "stage2-tiny" / "model") == ("sft", "stage1", "stage2")
    assert f"loading      {runs / 'stage1-tiny' / 'model'}" in through
    assert [steps(runs / f"{stage}-tiny") for stage in ("stage1", "stage2")] == [2, 2]
    assert through.count("gate         open: reward/total flat within 100 over two windows of 1") == 2


def test_the_metrics_say_why_groups_were_dead(home, through):
    rows = [json.loads(line) for line in (home / "runs" / "stage1-tiny" / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        causes = [
            value
            for name, value in row.items()
            if name.startswith("group/zero_variance_") and name != "group/zero_variance_share"
        ]
        assert len(causes) == 6
        assert sum(causes) == row["group/zero_variance"]
        assert 2 * 4 <= row["count/completions"] <= 3 * 2 * 4  # asked again, up to the cap


def test_the_same_command_again_runs_nothing_again(home, through):
    before = (home / "runs" / "stage2-tiny" / "metrics.jsonl").read_bytes()
    again = [
        "--stage_end.when=plateau",
        "--stage_end.window=1",
        "--stage_end.tolerance=100",
        "--sampling.dynamic=refill",
    ]
    done = train(home, *again, "--curriculum.order=difficulty")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is there already") == 2
    assert "loading" not in done.stdout
    assert (home / "runs" / "stage2-tiny" / "metrics.jsonl").read_bytes() == before
    other = train(home, "--run.seed=5")
    assert other.returncode == 2
    assert "the run was begun with run.seed = 0, now it is 5, and 5 more keys differ" in other.stdout


def test_by_hand_the_next_stage_never_begins_by_itself(tmp_path, monkeypatch, capsys):
    begun = []
    monkeypatch.setattr(stages, "run", lambda arguments, **how: begun.append(folder_of(load(Recipe, arguments)).name))
    command = [*STAGES, "--", *SHORT, f"--run.folder={tmp_path}", "--run.name=mine"]
    assert stages.main([*command, "--stage_end.when=hand"]) == 0
    assert begun == ["mine-stage1"]
    said = capsys.readouterr().out
    assert "gate         by hand: python launch/train.py configs/stage2.toml" in said
    assert f"--model.init_from={tmp_path / 'mine-stage1'}" in said
    assert stages.main(command) == 0
    assert begun[1:] == ["mine-stage1", "mine-stage2"]


def recipe(*arguments):
    return load(Recipe, [str(ROOT / "configs/stage2.toml"), str(ROOT / "configs/models/tiny.toml"), *arguments])


def test_stage_2_refuses_a_model_that_was_never_through_stage_1(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=r"nothing says that it was trained in any stage.*--model.after= "):
        check_after(recipe(), str(tmp_path / "model"))
    with pytest.raises(UserError, match=r"model.after = 'stage1': the base model was not trained in stage1"):
        check_after(recipe(), None)
    write_stages(tmp_path / "model", ("sft",))
    with pytest.raises(UserError, match=r"it was trained in sft"):
        check_after(recipe(), str(tmp_path / "model"))
    assert check_after(recipe("--model.after="), str(tmp_path / "model")) == ("sft",)
    write_stages(tmp_path / "model", ("sft", "stage1"))
    assert check_after(recipe(), str(tmp_path / "model")) == ("sft", "stage1")


def test_every_model_of_a_run_knows_its_stages(tmp_path):
    run = tmp_path / "run"
    for inner in ("model", "best-step-4", "checkpoints/step-8/model"):
        (run / inner).mkdir(parents=True)
    write_stages(run, ("stage1",))
    assert {stages_of(run / inner) for inner in ("model", "best-step-4", "checkpoints/step-8/model")} == {("stage1",)}
    assert stages_of("owner/model") == ()
    (run / "stages.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"stages.json: damaged"):
        stages_of(run)


def test_the_plan_names_runs_and_starts():
    shared = ["configs/models/tiny.toml", "--run.name=mine", "--model.init_from=runs/x", "--run.folder=out"]
    first, second = (load(Recipe, arguments) for arguments in plan(STAGES, shared))
    assert [str(folder_of(r)) for r in (first, second)] == ["out/mine-stage1", "out/mine-stage2"]
    assert (first.model.init_from, second.model.init_from) == ("runs/x", "out/mine-stage1")
    with pytest.raises(UserError, match=r"stage1-tiny is the run of an earlier stage too"):
        plan([STAGES[0], STAGES[0]], shared[:1])


def test_arguments_before_and_after_the_dashes():
    assert read_arguments(["--gpus=4", "--port=7", "a", "b", "--", "c", "--x=1"]) == (4, 7, ["a", "b"], ["c", "--x=1"])
    with pytest.raises(UserError, match=r"--run.seed=1: valid before --"):
        read_arguments(["a", "--run.seed=1"])
    with pytest.raises(UserError, match="no stage is given"):
        read_arguments(["--", "a"])
    script = str(ROOT / "scripts/train.sh")
    assert launcher() == ("env", script)
    assert launcher(4, 7) == ("env", "GPUS=4", "PORT=7", script)


@pytest.mark.parametrize(("ends", "code"), [("0", 75), ("3", 3)])
def test_nothing_follows_a_run_that_was_through_before_it_heard_the_request(ends, code):
    """It ends well, and so would the chain begin the next one; a run that fails says so itself."""
    asks = f"signal.signal(15, lambda *_: sys.exit({ends})); os.kill(os.getppid(), 15); signal.pause()"
    assert wait_for([sys.executable, "-S", "-c", f"import os, signal, sys; {asks}"]) == code
    assert wait_for([sys.executable, "-S", "-c", "pass"]) == 0


def test_a_run_that_was_cut_off_is_set_aside_and_kept(tmp_path):
    run = tmp_path / "run"
    assert set_aside(run, FolderLock(run)) is None
    for number in (1, 2):
        run.mkdir()
        (run / "metrics.jsonl").write_text(str(number), encoding="utf-8")
        assert set_aside(run, FolderLock(run)) == tmp_path / f"run.cut-off-{number}"
    assert (tmp_path / "run.cut-off-1" / "metrics.jsonl").read_text() == "1"
    (run / "checkpoints" / ".step-000002.writing").mkdir(parents=True)
    assert set_aside(run, FolderLock(run)) == tmp_path / "run.cut-off-3"  # half a checkpoint is none
    (run / "checkpoints" / "step-000002").mkdir(parents=True)
    assert set_aside(run, FolderLock(run)) is None  # training goes on from there
    write_stages_into = run / "model"
    write_stages_into.mkdir()
    write_stages(write_stages_into, ("stage1",))
    assert set_aside(run, FolderLock(run)) is None  # finished
