"""Pipelines on the tiny model: stages and stage ends, experiments, kills, and what is refused."""

import io
import itertools
import json
import shutil
import sys

import pytest
from pydantic import ValidationError

from grpo.config import load
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch import pipeline
from launch.builders.data import load_questions
from launch.config.recipe import load_recipe
from launch.pipeline import Experiment, plan_arm, plan_stages, read_arguments, wait_for
from tests.helpers.forked import ROOT, run_program

STAGES = ["configs/stage1.toml", "configs/stage2.toml"]
SHORT = ["configs/models/tiny.toml", "--held_out.questions=0", "--sampling.max_tokens=4", "--run.steps=4"]


def train(home, *shared):
    environment = {"XDG_CACHE_HOME": str(home / "cache"), "WANDB_MODE": "", "WANDB_API_KEY": ""}
    return run_program(
        "launch.pipeline", [*STAGES, "--", *SHORT, f"--run.folder={home / 'runs'}", *shared], **environment
    )


def steps(run):
    return len((run / "metrics.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


PLATEAU = ["--stage_end.when=plateau", "--stage_end.window=1", "--stage_end.tolerance=100"]
PLATEAU += ["--sampling.dynamic=refill", "--curriculum.order=difficulty"]


@pytest.fixture(scope="module")
def through(home):
    """Stage 1 ends at its plateau (the tiny model gains nothing within two steps), stage 2 after refilled steps."""
    done = train(home, *PLATEAU)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_command_goes_through_both_stages(home, through):
    runs = home / "runs"
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
    done = train(home, *PLATEAU)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("exists already") == 2
    assert "loading" not in done.stdout
    assert (home / "runs" / "stage2-tiny" / "metrics.jsonl").read_bytes() == before
    other = train(home, "--run.seed=5")
    assert other.returncode == 2
    assert "the run was begun with run.seed = 0, now it is 5, and 5 more keys differ" in other.stdout


def test_by_hand_the_next_stage_never_begins_by_itself(tmp_path, monkeypatch, capsys):
    begun = []
    monkeypatch.setattr(pipeline, "run", lambda job, console: begun.append(job.folder.name))
    command = [*STAGES, "--", *SHORT, f"--run.folder={tmp_path}", "--run.name=mine"]
    assert pipeline.main([*command, "--stage_end.when=hand"]) == 0
    assert begun == ["mine-stage1"]
    said = capsys.readouterr().out
    assert "gate         by hand: python launch/train.py configs/stage2.toml" in said
    assert f"--model.init_from={tmp_path / 'mine-stage1'}" in said
    assert pipeline.main(command) == 0
    assert begun[1:] == ["mine-stage1", "mine-stage2"]


def test_the_plan_names_runs_and_starts():
    shared = ["configs/models/tiny.toml", "--run.name=mine", "--model.init_from=runs/x", "--run.folder=out"]
    first, second = plan_stages(STAGES, shared)
    assert [str(job.folder) for job in (first, second)] == ["out/mine-stage1", "out/mine-stage2"]
    assert [job.recipe.model.init_from for job in (first, second)] == ["runs/x", "out/mine-stage1"]
    with pytest.raises(UserError, match=r"stage1-tiny is the run of an earlier stage too"):
        plan_stages([STAGES[0], STAGES[0]], shared[:1])


def test_arguments_before_and_after_the_dashes():
    assert read_arguments(["--seeds=2,0,2", "a", "b", "--", "c", "--x=1"]) == (["a", "b"], (2, 0), ["c", "--x=1"])
    with pytest.raises(UserError, match=r"--run.seed=1: valid before --"):
        read_arguments(["a", "--run.seed=1"])
    with pytest.raises(UserError, match="no recipe is given"):
        read_arguments(["--", "a"])


@pytest.mark.parametrize(("ends", "code"), [("0", 75), ("3", 3)])
def test_nothing_follows_a_run_that_was_through_before_it_heard_the_request(ends, code):
    """It ends well, and so would the chain begin the next one; a run that fails says so itself."""
    asks = f"signal.signal(15, lambda *_: sys.exit({ends})); os.kill(os.getppid(), 15); signal.pause()"
    assert wait_for([sys.executable, "-S", "-c", f"import os, signal, sys; {asks}"]) == code
    assert wait_for([sys.executable, "-S", "-c", "pass"]) == 0


EXPERIMENTS = sorted(ROOT.glob("configs/experiments/*.toml"))


def arm_jobs(path, seed, shared):
    experiment = load(Experiment, [str(path)])
    return {arm.name: plan_arm(experiment, arm, "x", seed, shared) for arm in experiment.arms}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("model", ["smollm2-135m", "tiny", "qwen3-8b"])
def test_every_experiment_resolves(path, model):
    for jobs in arm_jobs(path, 3, [f"configs/models/{model}.toml"]).values():
        assert {job.recipe.run.seed for job in jobs} == {3}
        assert jobs[-1].recipe.held_out.unanswerable == 0.5
        for before, after in itertools.pairwise(jobs):
            assert after.recipe.model.init_from == f"runs/{before.recipe.run_name}"


def test_the_papers_arms():
    folder = ROOT / "configs/experiments"
    arms = {name: [job.arguments[0] for job in jobs] for name, jobs in arm_jobs(folder / "stages.toml", 0, []).items()}
    one, two = "configs/stage1.toml", "configs/stage2.toml"
    assert arms == {"stage 1 only": [one], "stage 2 only": [two], "stage 1, then 2": [one, two]}
    ratio = arm_jobs(folder / "ratio.toml", 0, [])
    assert [jobs[-1].recipe.data.unanswerable for jobs in ratio.values()] == [0.3, 0.5, 0.7, 0.9]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_all_arms_are_asked_the_same_questions(path):
    """With smollm2-135m, whose own recipe has another world in stage 2 than in stage 1; no model is loaded."""
    quiet, shared = Console(io.StringIO()), ["configs/models/smollm2-135m.toml"]
    arms = arm_jobs(path, 0, shared).values()
    last = [load_recipe([*jobs[-1].arguments, "--model.init_from=base"]) for jobs in arms]
    one, *others = [load_questions(r.data, r.sft, r.held_out, quiet, warm_up=True) for r in last]
    assert len(others) >= 2
    assert (len(one.held_out), len(one.warm_up)) == (100, 120)
    assert sum(not example.answerable for example in one.held_out) == 50
    for other in others:
        assert other.held_out == one.held_out
        assert other.warm_up == one.warm_up  # so that all arms begin with one model


def test_an_arm_never_overrides_the_user_silently():
    ratio = ROOT / "configs/experiments/ratio.toml"
    assert arm_jobs(ratio, 0, ["--held_out.unanswerable=0.25"])["0.3"][0].recipe.held_out.unanswerable == 0.25
    for override in ("--data.unanswerable=0.2", "--run.seed=3", "--model.init_from=runs/x"):
        with pytest.raises(UserError, match=rf"{override.partition('=')[0]}: the experiment sets this itself"):
            arm_jobs(ratio, 0, [override])


def experiment(home, *shared, seeds="0"):
    given = ["configs/experiments/stages.toml", f"--seeds={seeds}", "--", "configs/models/tiny.toml"]
    given += ["--run.steps=1", "--sampling.max_tokens=4", "--held_out.questions=4", f"--run.folder={home / 'runs'}"]
    variables = {"XDG_CACHE_HOME": str(home / "cache"), "WANDB_MODE": "", "WANDB_API_KEY": ""}
    return run_program("launch.pipeline", [*given, *shared], **variables)


def test_an_experiment_resumes_after_a_kill_and_leaves_a_table(tmp_path):
    done = experiment(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = tmp_path / "runs"
    assert "3 runs, 0 of them finished" in done.stdout
    assert done.stdout.count("run          ") == 3  # the run that two arms share is made once
    out = runs / "stages-tiny"
    written = json.loads((out / "numbers.json").read_text())
    assert list(written) == ["before", "stage 1 only", "stage 2 only", "stage 1, then 2"]
    notes = [json.loads(line) for line in (runs / "stages-tiny-stage2-s0" / "notes.jsonl").read_text().splitlines()]
    after = next(note for note in notes if note["note"] == "held_out/after")
    for name in ("trust_score", "f1_gr", "right", "refused_unanswerable"):
        assert written["stage 1, then 2"]["values"][name] == pytest.approx(after[name])
    assert (out / "plot.png").read_bytes()[:4] == b"\x89PNG"
    table = (out / "table.md").read_text()
    assert "| Trust-Score |" in table
    assert "4 held-out questions, 1 seeds" in table
    # A kill in the middle of the last run: it alone is run again, and to the same end.
    whole = (runs / "stages-tiny-stage2-s0" / "rollouts.jsonl").read_bytes()
    for left in ("model", "checkpoints"):
        shutil.rmtree(runs / "stages-tiny-stage2-s0" / left, ignore_errors=True)
    done = experiment(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs, 2 of them finished" in done.stdout
    assert (runs / "stages-tiny-stage2-s0" / "rollouts.jsonl").read_bytes() == whole
    assert (out / "table.md").read_text() == table


def test_wrong_input_is_one_line(tmp_path, capsys):
    for arguments, part in [
        (["configs/experiments/nowhere.toml"], "error: configs/experiments/nowhere.toml"),
        (["configs/experiments/stages.toml", "--seeds=a"], "error: --seeds=a: expected whole numbers"),
        (["configs/experiments/stages.toml", "--", "--run.sead=1"], "unknown key run.sead; did you mean run.seed?"),
        (["configs/stage1.toml", "--seeds=1"], "error: --seeds is for an experiment"),
    ]:
        assert pipeline.main(arguments) == 2
        assert part in capsys.readouterr().out
    run, other = {"name": "a", "recipe": "x"}, {"name": "a", "recipe": "y"}
    with pytest.raises(ValidationError, match="the run 'a' is two different ones"):
        Experiment(title="t", arms=[{"name": "1", "runs": [run]}, {"name": "2", "runs": [other]}])
    with pytest.raises(ValidationError, match="two arms have one name"):
        Experiment(title="t", arms=[{"name": "1", "runs": [run]}, {"name": "1", "runs": [run]}])
