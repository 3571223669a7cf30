"""The whole prompt sweep on the tiny model, and a sweep that was killed."""

import shutil
from pathlib import Path

import pytest

from eval.factuality import OUTCOMES
from grpo.data.example import Example
from grpo.data.prompts import PROMPTS
from grpo.data.text import REFUSALS
from grpo.errors import UserError
from launch.prompt_sweep import column, main, numbered
from launch.runs.answers import FILE, Answer

ROOT = Path(__file__).resolve().parents[2]


def test_eight_prompts_from_the_most_eager_to_the_most_cautious():
    assert list(numbered(PROMPTS / "factuality")) == [1, 2, 3, 4, 5, 6, 7, 8]
    with pytest.raises(UserError, match=r"holds no numbered prompts; expected files such as 1.txt"):
        numbered(PROMPTS)


def test_a_column_by_hand():
    """Two answers of four are right for one question of three, so that the share of right answers is 0 to 50 %."""
    who = [
        Example(id=str(n), question="Who?", passages=(), answers=(("Daei",),), found=(), style="closed", source="t")
        for n in range(3)
    ]
    right, wrong, silent = (Answer(f"boxed[{text}]", truncated=False) for text in ("Daei", "Bican", "Unknown"))
    found = column(who, [[right, right, wrong, silent], [wrong] * 4, [silent] * 4], reasoning=False, refusals=REFUSALS)
    assert [found.values[name] for name in OUTCOMES] == pytest.approx([100 * 2 / 12, 100 * 5 / 12, 100 * 5 / 12])
    assert found.intervals["correct"] == pytest.approx((0.0, 50.0))
    assert "unanswerable_not_attempted" not in found.values
    cut = column(who[:1], [[Answer("boxed[Daei]", truncated=True)]], reasoning=False, refusals=REFUSALS)
    assert cut.values["wrong"] == 100


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    rows = "problem,answer\n" + "".join(f"Who is number {n}?,Name {n}\n" for n in range(40))
    (home / "s.csv").write_text(rows, encoding="utf-8")
    (home / "prompts").mkdir()
    for number in (1, 8):
        shutil.copy(PROMPTS / "factuality" / f"{number}.txt", home / "prompts")
    return home


def sweep(home, *arguments):
    recipes = ["configs/factuality-fact.toml", "configs/models/tiny.toml", "--sampling.max_tokens=4"]
    data = [f"--data.source={home / 's.csv'}", "--held_out.questions=3"]
    return main([*recipes, *data, "--samples", "2", "--prompts", str(home / "prompts"), *arguments])


def test_a_sweep_on_the_tiny_model_resumes_after_a_kill(home, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    out = home / "new" / "sweep"
    assert sweep(home, "--out", str(out), "--rollout.max_num_seqs=4") == 0, capsys.readouterr().out
    assert {FILE, "numbers.json", "plot.png", "table.md"} <= {path.name for path in out.iterdir()}
    assert (out / "plot.png").read_bytes()[:4] == b"\x89PNG"
    lines = (out / FILE).read_text().splitlines()
    assert len(lines) == 1 + 3  # six prompts in batches of two
    table = (out / "table.md").read_text()
    assert "| prompt 1 | prompt 8 |" in table
    assert "| wrong | 100.0 [100.0, 100.0] |" in table  # each answer is cut off after four tokens
    capsys.readouterr()

    (out / FILE).write_text("\n".join(lines[:2]) + "\n" + lines[2][:20])
    assert sweep(home, "--out", str(out), "--rollout.max_num_seqs=4") == 0
    assert "2 of 6 are answered already" in capsys.readouterr().out
    assert (out / FILE).read_text().splitlines() == lines
    assert (out / "table.md").read_text() == table

    assert sweep(home, "--out", str(out), "--samples", "3") == 2
    assert "made otherwise (samples = 2 there and 3 now); give another folder" in capsys.readouterr().out
    assert sweep(home, "--out", str(home)) == 2
    assert "exists already and holds no sweep; give a new folder" in capsys.readouterr().out
    assert sweep(home, "--out", str(home / "x"), "--data.source=world", "--data.max_train=4") == 2
    assert "the prompts are for closed-book questions; expected --data.source=FILE" in capsys.readouterr().out
    assert sweep(home, "--out", str(home / "x"), "--rollout.engine=server") == 2
    assert 'rollout.engine = "server" is for training' in capsys.readouterr().out
    assert not (home / "x").exists()
