"""The default evaluation reads the answers of tests/data/answers.jsonl as the rewards do."""

import json
from pathlib import Path

import pytest

from eval.answer_extraction import DefaultProtocol
from eval.answer_scores import score_answers
from eval.predictions import Prediction
from grpo.data.example import read_example
from rewards.judges.lexical import LexicalJudge

CASES = [
    json.loads(line) for line in (Path(__file__).parents[2] / "data/answers.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_an_answer_is_said_and_cited_for_both(case: dict) -> None:
    example = read_example(case["id"], case, style="prose", source="practice")
    asked = [Prediction(example, case["completion"])]
    (found,) = score_answers(asked, LexicalJudge(), protocol=DefaultProtocol()).answers
    paid, cited = case["expect"]["exact_match"], case["expect"]["citation"]
    assert sum(found.hits) == 2 * paid  # 0.5 for each answer that is said
    if paid and cited == paid and example.style != "list":  # here the question is asked of the passages too
        assert found.precision == 1.0
