"""The difficulty filter on the tiny model: what is kept, and what training then refuses."""

import json
import re
from pathlib import Path

import pytest

from grpo.config import load
from grpo.data.example import Example, Passage, load_examples
from grpo.data.text import REFUSALS
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders import data as data_builder
from launch.builders.data import load_sources
from launch.config.recipe import Recipe, SFTConfig
from launch.filter import main, tally
from launch.runs.answers import FILE, Answer

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ["configs/stage1.toml", "configs/models/tiny.toml", "--sampling.max_tokens=4", "--data.max_train=6"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run_filter(capsys, *arguments):
    code = main([*RECIPES, "--samples", "2", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_a_truncated_answer_is_not_right():
    passage = Passage(title="Daei", text="Daei scored 109 goals.")
    example = Example(
        id="q", question="?", passages=(passage,), answers=(("109",),), found=((True,),), style="prose", source="t"
    )
    answers = [Answer("109 goals [1].", truncated) for truncated in (False, False, True)]
    found = tally(example, answers, reasoning=False, refusals=REFUSALS)
    assert (found.right, found.of) == (2, 3)


def test_the_filter_knows_the_recipes_refusals():
    nobody = Example(id="n", question="?", style="closed", source="t", passages=(), answers=(), found=())
    answers = [Answer(text, truncated=False) for text in ("Steht nirgends.", "Immer.", REFUSALS[0])]
    assert tally(nobody, answers, reasoning=False, refusals=("Steht nirgends.",)).right == 1


def test_the_filter_on_the_tiny_model(tmp_path, capsys):
    """The tiny model is never right, which is an error; with two answers changed, those questions are kept."""
    out = tmp_path / "kept.jsonl"
    transforms = ["--data.shuffle=true", "--data.without_support=true"]
    code, said = run_filter(capsys, "--out", out, *transforms)
    assert code == 2
    assert "error: of 6 questions none is sometimes right" in said
    assert not out.exists()
    file = tmp_path / "kept.jsonl.answers" / FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    names = [name for line in lines[1:] for name in line]
    assert len(names) == 6
    refusal = "I apologize, but I couldn't find an answer to your question in the search results."
    everything = load_questions(transforms)
    for line in lines[1:]:
        for name in line:
            example = everything[name.split()[0]]
            gold = refusal if not example.answerable else " and ".join(a[0] for a in example.answers) + " [1]."
            if name in (names[1], names[4]):
                line[name][0] = [gold, False]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said = run_filter(capsys, "--out", out, "--keep", "3", *transforms)
    assert code == 0, said
    assert "6 of 6 are answered already" in said
    assert "loading the rollout engine" not in said
    ids = [example.id for example in load_examples(out)]
    assert ids[:2] == [names[1].split()[0], names[4].split()[0]]
    assert f"kept         2 of 6 questions, and {len(ids) - 2} held-out ones" in said

    done = re.escape("(data.without_support = True, data.shuffle = True), and data.shuffle would do it again; valid")
    with pytest.raises(UserError, match=done):
        load_sources(
            load(Recipe, [*RECIPES, f"--data.source={out}", "--data.shuffle=true"]).data, SFTConfig(), Console()
        )
    code, said = run_filter(capsys, "--out", out)
    assert (code, "is not overwritten" in said) == (2, True)
    other = ["--answers", file.parent, "--out", tmp_path / "x.jsonl", "--sampling.temperature=0.5"]
    code, said = run_filter(capsys, *other)
    assert (code, "made otherwise (temperature = 1.0 there and 0.5 now)" in said) == (2, True)


def load_questions(transforms):
    r = load(Recipe, [*RECIPES, *transforms])
    return {
        example.id: example
        for example in data_builder.load_questions(r.data, r.sft, r.held_out, Console(), warm_up=True).train
    }


def test_wrong_numbers_are_one_line(tmp_path, capsys):
    code = main([*RECIPES, "--out", str(tmp_path / "y.jsonl"), "--samples", "1"])
    assert code == 2
    assert "error: --keep 2500 --samples 1; valid: 1 or more to keep, 2 or more samples" in capsys.readouterr().out
