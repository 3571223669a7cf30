"""The report of an experiment: metrics by hand, pooled seeds, and runs that cannot be compared."""

import numpy as np
import pytest

from curriculum.datasets.world import make_world
from eval.predictions import write_questions
from eval.report.experiment import GRADED, common_questions, metrics, pooled, report
from eval.trust_score import COLUMNS
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
