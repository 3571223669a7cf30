"""The factuality recipes: what they pay, and a whole run of fact, then caution, on the tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from curriculum.samplers import passed
from eval.factuality import factuality_metrics, outcome
from grpo.config import load
from grpo.data.example import Example
from grpo.data.text import REFUSAL, REFUSALS
from grpo.types import Completion, Group, Score
from launch.config.recipe import Recipe
from launch.filter import tally
from launch.runs.answers import Answer
from rewards.config import PRESETS
from rewards.zero_variance import cause

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    "factuality-fact": "fact",
    "factuality-caution": "caution",
    "factuality-both": "fact_and_caution",
    "factuality-fact-then-caution": "caution",
}
DAEI = Example(
    id="c", question="Who?", passages=(), answers=(("Ali Daei", "Daei"),), found=(), style="closed", source="test"
)
NOBODY = Example(id="n", question="Why?", passages=(), answers=(), found=(), style="closed", source="test")


@pytest.mark.parametrize("name", RECIPES)
def test_the_slides_settings(name):
    recipe = load(Recipe, [str(ROOT / f"configs/{name}.toml"), str(ROOT / "configs/models/qwen3-8b.toml")])
    assert recipe.reward == PRESETS[RECIPES[name]]
    assert (recipe.sampling.group_size, recipe.data.max_train, recipe.data.unanswerable) == (20, 2500, "any")
    assert len(recipe.data.source) == 4
    assert recipe.model.prompt == "factuality/4"
    assert recipe.model.reasoning
    assert recipe.loss.kl_coef > 0


def wrote(text, finish="stop"):
    return Completion(text=text, token_ids=(1,), logprobs=(0.0,), finish=finish, version=0)


@pytest.mark.parametrize(
    ("example", "text", "expected"),
    [
        (DAEI, "So boxed[Ali Daei].", "correct"),
        (DAEI, "boxed[Bican], not Daei", "wrong"),
        (DAEI, "Daei? boxed[Unknown]", "not_attempted"),
        (DAEI, REFUSAL, "not_attempted"),
        (DAEI, f"{REFUSAL} Ali Daei.", "wrong"),
        (DAEI, "boxed[Daeiros]", "wrong"),  # whole words
        (DAEI, "", "wrong"),
        (NOBODY, "boxed[Unknown]", "not_attempted"),
        (NOBODY, "boxed[Fate]", "wrong"),
    ],
)
def test_what_comes_of_an_answer(example, text, expected):
    assert outcome(example, text, reasoning=False, refusals=REFUSALS) == expected
    tagged = f"<think>Daei?</think><answer>{text}</answer>"
    assert outcome(example, tagged, reasoning=True, refusals=REFUSALS) == expected
    assert outcome(example, text, reasoning=False, refusals=REFUSALS, finished=False) == "wrong"


def group(example, *texts):
    return Group(example=example, prompt_ids=(1,), completions=tuple(map(wrote, texts)))


RIGHT, WRONG, SILENT = "boxed[Daei]", "boxed[Bican]", "boxed[Unknown]"


@pytest.mark.parametrize(
    ("example", "texts", "expected"),
    [
        (DAEI, (RIGHT, RIGHT), "right"),
        (DAEI, (SILENT, SILENT), "refused"),
        (DAEI, ("Daei? boxed[Bican]", SILENT), "wrong"),  # what is not in the box is not said
        (NOBODY, (SILENT, REFUSAL), "right"),
        (NOBODY, (WRONG, RIGHT), "wrong"),
    ],
)
def test_why_a_closed_book_group_is_dead(example, texts, expected):
    assert cause(group(example, *texts), reasoning=False) == expected


def test_the_filter_counts_boxes_that_are_right():
    """Three of five: `Unknown` is wrong where there is an answer, and right where there is none."""
    texts = (RIGHT, "So: boxed[Ali Daei]", "Daei? boxed[Bican]", SILENT, RIGHT)
    assert [
        tally(e, [Answer(text, truncated=False) for text in texts], reasoning=False, refusals=REFUSALS).right
        for e in (DAEI, NOBODY)
    ] == [3, 1]


def test_live_numbers_of_a_step():
    groups = [group(DAEI, RIGHT, WRONG), group(DAEI, SILENT, SILENT), group(NOBODY, SILENT, WRONG)]
    found = factuality_metrics(groups, reasoning=False, refusals=REFUSALS)
    third = pytest.approx(100 / 3)
    assert (found["partial_correct"], found["all_not_attempted"], found["partial_not_attempted"]) == (third,) * 3
    assert (found["correct"], found["not_attempted"], found["wrong"]) == pytest.approx((100 / 6, 50, 100 / 3))
    assert factuality_metrics([], reasoning=False, refusals=REFUSALS) == {}


def test_caution_passes_what_nobody_can_answer():
    assert passed(NOBODY, Score(total=3, parts={"caution": 1.0}))
    assert not passed(NOBODY, Score(total=2, parts={"caution": 0.0, "exact_match": 0.0}))


def test_fact_then_caution_on_the_tiny_model(tmp_path):
    """Both stages in one command, from mixed sources, with the table and the buckets of the slides live."""
    rows = [{"question": f"Where is {n}?", "possible_answers": [f"Town {n}"]} for n in range(30)]
    aware = [{"question": f"Why {n}?", "answer": None, "answerable": False} for n in range(30)]
    for name, content in (("p.json", rows), ("a.json", aware)):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    sources = json.dumps([str(tmp_path / "p.json"), str(tmp_path / "a.json")])
    tiny = ["configs/models/tiny.toml", f"--data.source={sources}", f"--run.folder={tmp_path / 'runs'}"]
    sizes = ["--run.steps=1", "--held_out.questions=4", "--sampling.group_size=2", "--model.reasoning=true"]
    stages = ["configs/factuality-fact.toml", "configs/factuality-fact-then-caution.toml"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "WANDB_MODE": "", "WANDB_API_KEY": ""}
    command = [sys.executable, "-m", "launch.pipeline", *stages, "--", *tiny, *sizes]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (tmp_path / "runs" / f"{Path(stage).stem}-tiny" for stage in stages)
    for run, part in ((first, "fact"), (second, "caution")):
        (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert row[f"reward/{part}"] == 0
        assert sum(row[f"factuality/{name}"] for name in ("correct", "not_attempted", "wrong")) == pytest.approx(100)
        assert row["factuality/all_wrong"] == 100
        assert "trust/trust_score" not in row
        answers = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
        assert len(answers) == 2 * 2
    assert "data         2 sources: 40 to train on" in done.stdout
    assert "refused, unanswerable" in done.stdout
    assert "boxed[Unknown]" in (first / "prompt.txt").read_text()
