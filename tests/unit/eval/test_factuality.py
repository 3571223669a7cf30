"""The five buckets of "GRPO for Factuality", on outcomes that can be counted by hand."""

import itertools

import pytest

from eval.factuality import OUTCOMES, bucket, factuality_scores, factuality_sums
from eval.report.table import BUCKETS
from grpo.data.example import Example
from grpo.errors import UserError

C, N, W = OUTCOMES


def question(number, *, answerable=True):
    answers = (("Ali Daei",),) if answerable else ()
    return Example(id=f"q{number}", question="Who?", passages=(), answers=answers, found=(), style="closed", source="t")


def scores(outcomes_QN, *, unanswerable=()):
    asked = [(question(n, answerable=n not in unanswerable), outcomes) for n, outcomes in enumerate(outcomes_QN)]
    return {name: float(value[0]) for name, value in factuality_scores(factuality_sums(asked).sum(0)).items()}


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((C, C, C), "all_correct"),
        ((C, C, W), "partial_correct"),
        ((W, N, C), "partial_correct"),  # one correct answer decides, whatever the others are
        ((N, N, N), "all_not_attempted"),
        ((N, W, W), "partial_not_attempted"),
        ((W, W, W), "all_wrong"),
        ((C,), "all_correct"),
        ((N,), "all_not_attempted"),
        ((W,), "all_wrong"),
    ],
)
def test_each_bucket(outcomes, expected):
    assert bucket(outcomes) == expected


def test_the_buckets_of_all_outcomes_of_three_answers_are_a_partition():
    """Of 27: one all correct, 18 more with a correct one, 6 without that mix, one all unknown, one all wrong."""
    every = list(itertools.product(OUTCOMES, repeat=3))
    assert [[bucket(outcomes) for outcomes in every].count(name) for name in BUCKETS] == [1, 18, 6, 1, 1]
    assert sum(scores(every)[name] for name in BUCKETS) == pytest.approx(100)


def test_the_first_row_of_the_slides_table():
    """Step 200: 36.67 / 33.33 / 8.33 / 10.00 / 11.67 percent is 22, 20, 5, 6 and 7 of 60 questions."""
    kinds = [((C, W), 22), ((N, W), 20), ((N, N), 5), ((C, C), 6), ((W, W), 7)]
    found = scores([outcomes for outcomes, count in kinds for _ in range(count)])
    assert [round(found[name], 2) for name in BUCKETS] == [10.0, 36.67, 33.33, 8.33, 11.67]


def test_rates_are_over_answers():
    """Of 12 answers 2 are correct, 5 not attempted, 5 wrong; of 4 to what nobody can answer 3 were not attempted."""
    found = scores([(C, C, W, N), (N, W, W, W), (N, N, N, W)], unanswerable={2})
    assert found["correct"] == pytest.approx(100 * 2 / 12)
    assert found["not_attempted"] == found["wrong"] == pytest.approx(100 * 5 / 12)
    assert found["correct_given_attempted"] == pytest.approx(100 * 2 / 7)
    assert found["unanswerable_not_attempted"] == 75.0
    assert scores([(N, N)])["correct_given_attempted"] == 0  # a share of nothing


def test_questions_with_different_numbers_of_answers_are_refused():
    with pytest.raises(UserError, match="q1: 1 answers, and q0 has 2; expected equally many for every question"):
        scores([(C, W), (C,)])
