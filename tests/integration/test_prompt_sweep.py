"""Prompts by number: shares by hand, the whole sweep on the tiny model, and a sweep that was cut off."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.prompt_sweep import SHOWN, Asked, main, numbered, numbers, point, sums
from grpo.data.prompts import PROMPTS
from grpo.errors import UserError
from launch.runs.prompt_sweep import chosen

ROOT = Path(__file__).resolve().parents[2]
C, N, W = "correct", "not_attempted", "wrong"
ASKED = [Asked(True, (C, C, W, N)), Asked(True, (N, W, W, W)), Asked(False, (N, N, N, W))]


def test_numbers_by_hand():
    """Of 12 answers 2 are correct, 5 not attempted, 5 wrong; of 4 to what nobody can answer 3 were not attempted."""
    found = {name: float(value[0]) for name, value in numbers(sums(ASKED).sum(0)).items()}
    expected = [100 * 2 / 12, 100 * 5 / 12, 100 * 5 / 12, 100 * 2 / 7, 75.0]
    assert list(found.values()) == pytest.approx(expected)
    assert list(found) == list(SHOWN)
    whole = point(ASKED)
    assert dict(whole.values) == pytest.approx(found)
    assert whole.buckets["Partial Correct"] == whole.buckets["Partial NotAttempt"] / 2 == pytest.approx(100 / 3)
    low, high = whole.intervals["correct"]
    assert (low, high) == pytest.approx((0.0, 50.0))  # three times the question of which 2 of 4 were right, or never
    assert "unanswerable_not_attempted" not in point(ASKED[:2]).values
    assert np.isfinite(list(point([Asked(True, (N,))]).values.values())).all()  # a share of nothing attempted


def test_eight_prompts_from_the_most_eager_to_the_most_cautious():
    paths = numbered(PROMPTS / "factuality")
    assert list(paths) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [path.name for path in chosen(paths, "8, 1").values()] == ["1.txt", "8.txt"]
    with pytest.raises(UserError, match=r"--only 1,9: valid: numbers of 1, 2, 3, 4, 5, 6, 7, 8"):
        chosen(paths, "1,9")
    with pytest.raises(UserError, match=r"holds no numbered prompts; expected files such as 1.txt"):
        numbered(PROMPTS)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    rows = "problem,answer\n" + "".join(f"Who is number {n}?,Name {n}\n" for n in range(40))
    (home / "s.csv").write_text(rows, encoding="utf-8")
    return home


def sweep(home, *arguments):
    """In this process: what it imports is there already."""
    recipes = ["configs/factuality-fact.toml", "configs/models/tiny.toml", "--sampling.max_tokens=4"]
    data = ["--data.source=" + str(home / "s.csv"), "--eval.questions=3", "--samples", "2", "--only", "1,8"]
    return main([*recipes, *data, *arguments])


def test_a_sweep_on_the_tiny_model_goes_on_where_it_was_cut_off(home, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    out = home / "new" / "sweep"
    assert sweep(home, "--out", str(out)) == 0, capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["answers.jsonl", "curve.png", "numbers.json", "table.md"]
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"
    lines = (out / "answers.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    assert [row["prompt"].split()[0] for row in rows] == ["1"] * 3 + ["8"] * 3
    assert all(row["outcomes"] == [W, W] and len(row["final"]) == 2 for row in rows)  # cut off after four bytes
    table = (out / "table.md").read_text()
    assert "| prompt | correct | not attempted | wrong |" in table
    capsys.readouterr()

    # A kill after the first prompt and in the middle of a line: only the rest is asked, and to the same end.
    (out / "answers.jsonl").write_text("\n".join(lines[:4]) + "\n" + lines[4][:20])
    assert sweep(home, "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "prompt 1     3 questions x 2 answers, 0 left to ask" in said
    assert "prompt 8     3 questions x 2 answers, 3 left to ask" in said
    assert (out / "answers.jsonl").read_text().splitlines() == lines
    assert (out / "table.md").read_text() == table

    assert sweep(home, "--out", str(out), "--samples", "3") == 2
    assert "made with samples = 2, and this is 3; give another --out" in capsys.readouterr().out
    assert sweep(home, "--out", str(home)) == 2
    assert "is there already and holds no sweep; give a new folder" in capsys.readouterr().out
    assert sweep(home, "--out", str(home / "x"), "--data.source=world", "--data.questions=4") == 2
    assert "the prompts are for closed-book questions; expected --data.source=FILE" in capsys.readouterr().out
    assert sweep(home, "--out", str(home / "x"), "--rollout.engine=server") == 2
    assert 'rollout.engine = "server" is for training' in capsys.readouterr().out
    assert not (home / "x").exists()


def test_help_says_how():
    command = [sys.executable, "-m", "eval.prompt_sweep", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True)
    assert "python -m eval.prompt_sweep configs/factuality-fact.toml configs/models/qwen3-8b.toml --out" in done.stdout
