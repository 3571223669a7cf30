"""An experiment on the tiny model: shared runs are made once, a kill loses nothing, the table has what was answered."""

import io
import itertools
import json
import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from eval.predictions import write_questions
from eval.report.experiment import GRADED, common_questions, metrics, pooled, report
from eval.trust_score import COLUMNS
from grpo.config import load
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.assemble import load_questions
from launch.config.recipe import Recipe
from launch.experiment import Experiment, chain, find, names, read_seeds
from rewards.judges.base import LexicalJudge
from tests.helpers.forked import run_program

SHORT = ["--run.steps=1", "--sampling.max_tokens=4", "--held_out.questions=4"]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("model", ["smollm2-135m", "tiny", "qwen3-8b"])
def test_every_experiment_resolves(name, model):
    experiment = find(name)
    for arm in experiment.arms:
        runs = [
            load(Recipe, args) for args in chain(arm, "x", 3, [f"configs/models/{model}.toml", *experiment.arguments])
        ]
        assert {recipe.run.seed for recipe in runs} == {3}
        assert runs[-1].held_out.unanswerable == 0.5
        for before, after in itertools.pairwise(runs):
            assert after.model.init_from == f"runs/{before.run_name}"


def test_the_papers_arms():
    arms = {arm.name: [planned.recipe for planned in arm.runs] for arm in find("stages").arms}
    one, two = "configs/stage1.toml", "configs/stage2.toml"
    assert arms == {"stage 1 only": [one], "stage 2 only": [two], "stage 1, then 2": [one, two]}
    shares = [load(Recipe, chain(arm, "x", 0, [])[-1]).data.unanswerable for arm in find("ratio").arms]
    assert shares == [0.3, 0.5, 0.7, 0.9]


@pytest.mark.parametrize("name", names())
def test_all_arms_are_asked_the_same_questions(name):
    """With smollm2-135m, whose own recipe has another world in stage 2 than in stage 1; no model is loaded."""
    experiment, quiet = find(name), Console(io.StringIO())
    shared = ["configs/models/smollm2-135m.toml", *experiment.arguments]
    last = [load(Recipe, [*chain(arm, "x", 0, shared)[-1], "--model.init_from=base"]) for arm in experiment.arms]
    one, *others = [load_questions(recipe, quiet) for recipe in last]
    assert len(others) >= 2
    assert (len(one.held_out), len(one.warm_up)) == (100, 120)
    assert sum(not example.answerable for example in one.held_out) == 50
    for other in others:
        assert other.held_out == one.held_out
        assert other.warm_up == one.warm_up  # so that all arms begin with one model


def test_arms_with_other_passages_under_the_same_ids_are_refused(tmp_path):
    shares = {"a": 0.8, "again": 0.8, "b": 1.0}
    for name, share in shares.items():
        recipe = load(Recipe, [f"--data.unrelated={share}", "--held_out.unanswerable=0.5", "--data.max_train=40"])
        (tmp_path / name).mkdir()
        write_questions(tmp_path / name, {"held_out": load_questions(recipe, Console(io.StringIO())).held_out})
    a, again, b = (tmp_path / name for name in shares)
    assert len(common_questions([a, again])) == 100
    with pytest.raises(UserError, match=r"/b: holds out other questions or passages than .*/a, so the two") as no:
        report("t", {"1": [a, again], "2": [b]}, tmp_path / "out", lambda name: LexicalJudge())
    assert "\n" not in str(no.value)


def experiment(home, *arguments):
    given = [*arguments, "--model=tiny", f"--run.folder={home / 'runs'}"]
    cache = str(home / "cache")
    return run_program("launch.experiment", given, XDG_CACHE_HOME=cache, WANDB_MODE="", WANDB_API_KEY="")


def test_an_experiment_goes_on_after_a_kill_and_leaves_a_table(tmp_path):
    done = experiment(tmp_path, "stages", "--seeds=0", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = tmp_path / "runs"
    assert "3 runs, 0 of them finished" in done.stdout
    assert done.stdout.count("stages-tiny-stage1-s0 is there already") == 1  # the run that two arms share
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
    # A kill in the middle of the last run: its folder is set aside, it alone is run again, and to the same end.
    whole = (runs / "stages-tiny-stage2-s0" / "rollouts.jsonl").read_bytes()
    for left in ("model", "checkpoints"):
        shutil.rmtree(runs / "stages-tiny-stage2-s0" / left, ignore_errors=True)
    done = experiment(tmp_path, "stages", "--seeds=0", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs, 2 of them finished" in done.stdout
    assert (runs / "stages-tiny-stage2-s0.cut-off-1" / "rollouts.jsonl").read_bytes() == whole
    assert (runs / "stages-tiny-stage2-s0" / "rollouts.jsonl").read_bytes() == whole
    assert (out / "table.md").read_text() == table


def test_wrong_input_is_one_line(tmp_path):
    for arguments, part in [
        (["stage"], "error: no experiment 'stage'; there are ratio, stages"),
        (["stages", "--seeds=a"], "error: --seeds a: expected whole numbers"),
        (["stages", "--run.sead=1"], "unknown key run.sead; did you mean run.seed?"),
    ]:
        done = experiment(tmp_path, *arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        assert part in done.stdout
    assert not (tmp_path / "runs").exists()
    assert read_seeds("2,0,2") == (2, 0)
    run, other = {"name": "a", "recipe": "x"}, {"name": "a", "recipe": "y"}
    with pytest.raises(ValidationError, match="the run 'a' is two different ones"):
        Experiment(title="t", arms=[{"name": "1", "runs": [run]}, {"name": "2", "runs": [other]}])
    with pytest.raises(ValidationError, match="two arms have one name"):
        Experiment(title="t", arms=[{"name": "1", "runs": [run]}, {"name": "1", "runs": [run]}])


def rows(*answers):
    """Sums of questions, each (answerable, refused, right, grounded)."""
    out = np.zeros((len(answers), len(COLUMNS) + len(GRADED)))
    for row, (answerable, refused, right, grounded) in zip(out, answers, strict=True):
        row[COLUMNS.index("questions")] = 1
        row[COLUMNS.index("answered")] = not refused
        row[COLUMNS.index("answerable")] = answerable
        row[COLUMNS.index("answered_answerable")] = answerable and not refused
        row[len(COLUMNS) :] = grounded, right, refused and answerable, refused and not answerable
    return out


def test_numbers_by_hand_and_seeds_pooled():
    """Of 2 answerable questions 1 is right, 0 grounded, 1 refused; of 2 others 1 is refused."""
    first = rows((1, 0, 1, 0), (1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0))
    found = {name: float(value[0]) for name, value in metrics(first.sum(0)).items()}
    assert [found[name] for name in GRADED] == [0.0, 50.0, 50.0, 50.0]
    assert found["f1_gr"] == 50.0
    second = rows((1, 0, 1, 1), (1, 0, 1, 1), (0, 1, 0, 0), (0, 1, 0, 0))
    both = pooled([first, second])
    assert (both.values["right"], both.values["grounded"], both.values["refused_unanswerable"]) == (75.0, 50.0, 75.0)
    assert [seed["right"] for seed in both.seeds] == [50.0, 100.0]
    low, high = both.intervals["right"]
    assert low <= 75.0 <= high
    assert high > low
    with pytest.raises(UserError, match=r"answered \[4, 3\] held-out questions"):
        pooled([first, second[:3]])
