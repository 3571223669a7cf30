"""The report of an experiment: metrics by hand, pooled seeds, and runs that cannot be compared."""

import json

import numpy as np
import pytest

from curriculum.datasets.world import make_world
from eval.predictions import write_questions
from eval.report.experiment import GRADED, common_questions, metrics, pooled, report, sums
from eval.trust_score import COLUMNS
from grpo.data.text import REFUSALS
from grpo.errors import UserError
from rewards.judges.lexical import LexicalJudge


def test_arms_with_other_passages_under_the_same_ids_are_refused(tmp_path):
    for name, seed in {"a": 1, "again": 1, "b": 2}.items():
        (tmp_path / name).mkdir()
        write_questions(tmp_path / name, {"held_out": make_world(9, seed=seed, unanswerable=0.5), "train": []})
    a, again, b = (tmp_path / name for name in ("a", "again", "b"))
    assert len(common_questions([a, again])) == 9
    with pytest.raises(UserError, match=r"/b: holds out other questions or passages than .*/a, so the two") as no:
        report("t", {"1": [a, again], "2": [b]}, tmp_path / "out", lambda name: LexicalJudge())
    assert "\n" not in str(no.value)


def test_a_report_knows_the_refusals_of_its_runs(tmp_path):
    """The recipe's own sentence answers nothing; a run of the default refusals would have answered all 9."""
    for name, refusals in (("own", ["Steht nirgends."]), ("default", [*REFUSALS])):
        (tmp_path / name).mkdir()
        questions = {"held_out": make_world(9, seed=1, unanswerable=0.5)}
        write_questions(tmp_path / name, questions)
        recipe = f'model = {{ reasoning = false, refusals = {json.dumps(refusals)} }}\nheld_out.judge = "lexical"\n'
        (tmp_path / name / "recipe.toml").write_text(recipe)
        row = {"moment": "after", "text": "Steht nirgends.", **dict.fromkeys((*GRADED, "refused", "answerable"), False)}
        answers = [json.dumps({**row, "id": example.id}) + "\n" for example in questions["held_out"]]
        (tmp_path / name / "held_out.jsonl").write_text("".join(answers))
        found = sums(tmp_path / name, "after", common_questions([tmp_path / name]), lambda judge: LexicalJudge())
        assert found[:, COLUMNS.index("answered")].sum() == (0 if name == "own" else 9)


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
