"""The five buckets of "GRPO for Factuality", on outcomes that can be counted by hand."""

import itertools

import pytest

from eval.factuality import BUCKETS, OUTCOMES, bucket, factuality
from grpo.errors import UserError

C, N, W = OUTCOMES


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((C, C, C), "All Correct"),
        ((C, C, W), "Partial Correct"),
        ((W, N, C), "Partial Correct"),  # one correct answer decides, whatever the others are
        ((N, N, N), "All NotAttempt"),
        ((N, W, W), "Partial NotAttempt"),
        ((W, W, W), "All Attempt and Wrong"),
        ((C,), "All Correct"),
        ((N,), "All NotAttempt"),
        ((W,), "All Attempt and Wrong"),
    ],
)
def test_each_bucket(outcomes, expected):
    assert bucket(outcomes) == expected


def test_the_buckets_of_all_outcomes_of_three_answers_are_a_partition():
    """Of 27: one all correct, 18 more with a correct one, 6 without that mix, one all unknown, one all wrong."""
    every = list(itertools.product(OUTCOMES, repeat=3))
    counts = dict.fromkeys(BUCKETS, 0)
    for outcomes in every:
        counts[bucket(outcomes)] += 1
    assert list(counts.values()) == [1, 18, 6, 1, 1]
    assert sum(factuality(every).shares.values()) == pytest.approx(100)


def test_the_first_row_of_the_slides_table():
    """Step 200: 36.67 / 33.33 / 8.33 / 10.00 / 11.67 percent is 22, 20, 5, 6 and 7 of 60 questions."""
    kinds = [((C, W), 22), ((N, W), 20), ((N, N), 5), ((C, C), 6), ((W, W), 7)]
    shares = factuality([outcomes for outcomes, count in kinds for _ in range(count)]).shares
    assert {name: round(share, 2) for name, share in shares.items()} == {
        "Partial Correct": 36.67,
        "Partial NotAttempt": 33.33,
        "All NotAttempt": 8.33,
        "All Correct": 10.0,
        "All Attempt and Wrong": 11.67,
    }


def test_rates_are_over_answers():
    found = factuality([(C, C, W, N), (N, N, N, W)])
    assert (found.correct, found.not_attempted, found.wrong) == (25.0, 50.0, 25.0)
    assert found.correct_given_attempted == 50.0
    assert found.shares["Partial Correct"] == found.shares["Partial NotAttempt"] == 50.0


def test_nothing_attempted_has_no_accuracy():
    assert factuality([(N, N)]).correct_given_attempted is None


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([], "no questions"),
        ([()], "question 1: a question without answers"),
        ([(C, W), (C,)], "question 2: 1 answers, and question 1 has 2"),
        ([(C,), ("right",)], "question 2: outcome 'right' is unknown; valid: correct, not_attempted, wrong"),
    ],
)
def test_bad_outcomes(outcomes, message):
    with pytest.raises(UserError, match=message) as caught:
        factuality(outcomes)
    assert "\n" not in str(caught.value)
