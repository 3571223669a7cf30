"""Which questions are kept: p(1 - p) by hand, a cache that survives a kill, and the whole filter on the tiny model."""

import io
import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from rich.console import Console

from curriculum.datasets.world import make_world
from curriculum.difficulty import Cache, Tally, cache_key, histogram, keep_hardest
from grpo.config import load
from grpo.data.example import load_examples
from grpo.errors import UserError
from grpo.telemetry.run_logger import Console as Terse
from launch.builders.assemble import load_questions
from launch.builders.data import all_examples
from launch.builders.models import locate
from launch.config.recipe import Recipe
from launch.runs.difficulty import filter_questions, made_with

ROOT = Path(__file__).resolve().parents[3]
WORLD = make_world(12, seed=3, unanswerable=0.5)


def tallies(*right, of=16):
    return {e.id: Tally(id=e.id, right=r, of=of) for e, r in zip(WORLD, right, strict=False)}


def test_the_variance_by_hand():
    assert [Tally(id="q", right=r, of=16).variance for r in (0, 1, 4, 8, 12, 16)] == [
        0, 15 / 256, 0.1875, 0.25, 0.1875, 0,
    ]  # fmt: skip


def test_the_most_varied_are_kept_in_their_order():
    asked, seen = WORLD[:7], tallies(0, 1, 8, 16, 4, 12, 15)
    kept = [WORLD.index(e) for e in keep_hardest(asked, seen, 3)]
    assert kept == [2, 4, 5]
    assert [WORLD.index(e) for e in keep_hardest(asked, seen, 2)] == [2, 4]  # of equals the earlier
    assert [WORLD.index(e) for e in keep_hardest(asked, seen, 100)] == [1, 2, 4, 5, 6]  # never those that teach nothing
    with pytest.raises(UserError, match="of 7 questions none is sometimes right"):
        keep_hardest(asked, tallies(0, 16, 0, 16, 0, 16, 0), 3)


def test_the_histogram_counts_every_question():
    console = Console(record=True, width=100)
    console.print(histogram(list(tallies(0, 0, 1, 2, 2, 2, of=2).values()), frozenset({WORLD[2].id}), width=3))
    rows = [line.split() for line in console.export_text().splitlines() if "/2" in line]
    assert rows == [
        ["0/2", "0.000", "2", "0", "██"],
        ["1/2", "0.250", "1", "1", "█"],
        ["2/2", "0.000", "3", "0", "███"],
    ]


def test_a_cache_goes_on_after_a_kill(tmp_path):
    path, made = tmp_path / "c", {"model": "a", "samples": 16}
    Cache(path, made).add([Tally(id="q1", right=3, of=16), Tally(id="q2", right=16, of=16)])
    with path.open("a") as file:
        file.write('{"id": "q3", "ri')  # what a kill leaves
    again = Cache(path, made)
    assert again.tallies == {"q1": Tally(id="q1", right=3, of=16), "q2": Tally(id="q2", right=16, of=16)}
    again.add([Tally(id="q3", right=1, of=16)])
    assert sorted(Cache(path, made).tallies) == ["q1", "q2", "q3"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"model": "b", "samples": 16}, "c: made with model = 'a', and this is 'b'; give another --cache"),
        ({"model": "a", "samples": 8}, "made with samples = 16, and this is 8"),
    ],
)
def test_a_cache_of_another_model_is_refused(tmp_path, made, message):
    Cache(tmp_path / "c", {"model": "a", "samples": 16})
    with pytest.raises(UserError, match=message):
        Cache(tmp_path / "c", made)
    (tmp_path / "other").write_text("hello\n")
    with pytest.raises(UserError, match="is no cache of this filter"):
        Cache(tmp_path / "other", made)


def test_a_cache_of_another_way_to_think_is_another(tmp_path):
    """The same recipe but for model.reasoning: other prompts, and other answers count as right."""
    recipes = [load(Recipe, ["--model.prompt=factuality/4", f"--model.reasoning={on}"]) for on in ("false", "true")]
    plain, thinking = (made_with(recipe, "some-model", 16) for recipe in recipes)
    assert {name for name in plain if plain[name] != thinking[name]} == {"reasoning", "prompt"}
    assert made_with(load(Recipe, []), "some-model", 16)["prompt"] != plain["prompt"]
    Cache(tmp_path / "c", plain)
    with pytest.raises(UserError, match=r"made with reasoning = False, and this is True; give another --cache"):
        Cache(tmp_path / "c", thinking)


def test_what_was_filtered_is_not_transformed_again(tmp_path, monkeypatch):
    """Every tally is in the cache, so that no model is asked; of 6 forms in another order 3 are kept as they were."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out, quiet = tmp_path / "kept.jsonl", Terse(io.StringIO())
    tiny = ["configs/stage1.toml", "configs/models/tiny.toml", "--data.questions=6"]
    recipe = load(Recipe, [*tiny, "--data.shuffle=true", "--data.without_support=true"])
    examples = load_questions(recipe, quiet).train
    made = made_with(recipe, locate(recipe.model.name, console=quiet), 2)
    Cache(tmp_path / "kept.jsonl.cache", made).add([Tally(id=cache_key(e), right=1, of=2) for e in examples])
    filter_questions(Namespace(out=str(out), cache=None, keep=3, samples=2), recipe, quiet)
    on_it = [*tiny, f"--data.source={out}"]
    assert all_examples(load(Recipe, on_it), quiet)[:3] == examples[:3]
    done = re.escape("(data.without_support = True, data.shuffle = True), and data.shuffle would do it again; valid")
    with pytest.raises(UserError, match=done):
        all_examples(load(Recipe, [*on_it, "--data.shuffle=true"]), quiet)


def test_other_examples_with_the_same_id_are_others():
    other = make_world(12, seed=4, unanswerable=0.5)[0]
    assert cache_key(WORLD[0]) != cache_key(other)
    assert cache_key(WORLD[0]).startswith(f"{WORLD[0].id} ")


def run_filter(home, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(home / "cache")}
    recipes = ["configs/stage1.toml", "configs/models/tiny.toml", "--sampling.max_tokens=4", "--data.questions=6"]
    command = [sys.executable, "-m", "curriculum.filter", *recipes, "--samples", "2", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_filter_on_the_tiny_model(tmp_path):
    """The tiny model is never right, and that is said; with two tallies changed, those two are kept, unsampled."""
    out = tmp_path / "kept.jsonl"
    done = run_filter(tmp_path, "--out", str(out))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: of 6 questions none is sometimes right" in done.stdout
    assert not out.exists()
    head, *lines = (tmp_path / "kept.jsonl.cache").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["of"] for row in rows] == [2] * 6
    rows[1]["right"] = rows[4]["right"] = 1
    (tmp_path / "kept.jsonl.cache").write_text("\n".join([head, *map(json.dumps, rows)]) + "\n")
    done = run_filter(tmp_path, "--out", str(out), "--keep", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 questions x 2 samples, 0 left to ask" in done.stdout
    assert "loading" not in done.stdout
    ids = [example.id for example in load_examples(out)]
    assert ids[:2] == sorted((rows[1]["id"].split()[0], rows[4]["id"].split()[0]), key=ids.index)
    assert f"kept         2 of 6 questions, and {len(ids) - 2} held-out ones" in done.stdout
    refused = run_filter(tmp_path, "--out", str(out))
    assert (refused.returncode, "is not overwritten" in refused.stdout) == (2, True)
    other = run_filter(
        tmp_path, "--out", str(tmp_path / "x.jsonl"), "--cache", f"{out}.cache", "--model.prompt=reasoning"
    )
    assert other.returncode == 2
    assert "made with prompt = " in other.stdout
    bad = run_filter(tmp_path, "--out", str(tmp_path / "y.jsonl"), "--samples", "1")
    assert "error: --keep 2500 --samples 1; valid: 1 or more to keep, 2 or more samples" in bad.stdout
