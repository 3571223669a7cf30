"""Answers as people and models write them (tests/data/answers.jsonl), and what each must earn by stage 1."""

import json
from pathlib import Path

import pytest

from grpo.data.example import read_example
from rewards.config import PRESETS
from rewards.judges.lexical import LexicalJudge
from rewards.scorer import RewardScorer
from tests.helpers.scoring import scores

CASES = [
    json.loads(line) for line in (Path(__file__).parents[2] / "data/answers.jsonl").read_text("utf-8").splitlines()
]
SCORER = RewardScorer(PRESETS["stage1"], reasoning=False, judge=LexicalJudge())


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_what_an_answer_earns(case: dict) -> None:
    example = read_example(case["id"], case, style="prose", source="practice")
    (found,) = scores(SCORER, example, [case["completion"]])
    got = {"answerable": example.answerable, "total": found.total, **found.parts}
    assert {name: got[name] for name in case["expect"]} == pytest.approx(case["expect"])


def test_the_cases_are_of_many_kinds() -> None:
    assert len(CASES) >= 84
    assert len({case["kind"] for case in CASES}) >= 15
