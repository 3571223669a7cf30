"""Does the model know when it knows? Five buckets of questions, by what n sampled answers to each came to.

From the slides "GRPO for Factuality" (Wenbo Pan, 11 March 2025), whose table has these five shares. The slides do not
define them; here they are a partition, so that every question is in exactly one:

* All Correct: all n answers are correct;
* Partial Correct: some are, but not all;
* none is correct, and
  * All NotAttempt: all n say that they do not know,
  * Partial NotAttempt: some do, the others are wrong,
  * All Attempt and Wrong: none does.

Whether one answer is correct is decided elsewhere: this file is given outcomes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from grpo.errors import UserError

Outcome = Literal["correct", "not_attempted", "wrong"]
Bucket = Literal["All Correct", "Partial Correct", "Partial NotAttempt", "All NotAttempt", "All Attempt and Wrong"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
BUCKETS: tuple[Bucket, ...] = get_args(Bucket)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factuality:
    """Percentages over questions (`shares`, which sum to 100) and over all answers (the others)."""

    shares: dict[Bucket, float]
    correct: float
    not_attempted: float
    wrong: float
    correct_given_attempted: float | None  # None where no answer attempts the question


def bucket(outcomes: Sequence[Outcome]) -> Bucket:
    """The bucket of one question from the outcomes of its answers, at least one.

    >>> bucket(["wrong", "correct", "not_attempted"])
    'Partial Correct'
    >>> bucket(["wrong", "not_attempted"])
    'Partial NotAttempt'
    """
    if not outcomes:
        raise UserError("a question without answers has no bucket; give at least one outcome")
    unknown = next((outcome for outcome in outcomes if outcome not in OUTCOMES), None)
    if unknown is not None:
        raise UserError(f"outcome {unknown!r} is unknown; valid: {', '.join(OUTCOMES)}")
    correct, not_attempted = outcomes.count("correct"), outcomes.count("not_attempted")
    if correct:
        return "All Correct" if correct == len(outcomes) else "Partial Correct"
    if not_attempted:
        return "All NotAttempt" if not_attempted == len(outcomes) else "Partial NotAttempt"
    return "All Attempt and Wrong"


def factuality(outcomes_QN: Sequence[Sequence[Outcome]]) -> Factuality:
    """The numbers of Q questions with N answers each.

    N must be the same for all: with more answers a question is more likely to be "partial", so that shares over mixed N
    would compare nothing. UserError names the first question, from 1, that is out of line.
    """
    if not outcomes_QN:
        raise UserError("no questions: the shares of nothing are not defined; give at least one question")
    buckets: list[Bucket] = []
    for number, outcomes in enumerate(outcomes_QN, 1):
        if len(outcomes) != len(outcomes_QN[0]):
            raise UserError(
                f"question {number}: {len(outcomes)} answers, and question 1 has {len(outcomes_QN[0])}; "
                "expected equally many for every question"
            )
        try:
            buckets.append(bucket(outcomes))
        except UserError as error:
            raise UserError(f"question {number}: {error}") from None
    every = [outcome for outcomes in outcomes_QN for outcome in outcomes]
    attempted = len(every) - every.count("not_attempted")
    return Factuality(
        shares={name: 100 * buckets.count(name) / len(buckets) for name in BUCKETS},
        correct=100 * every.count("correct") / len(every),
        not_attempted=100 * every.count("not_attempted") / len(every),
        wrong=100 * every.count("wrong") / len(every),
        correct_given_attempted=100 * every.count("correct") / attempted if attempted else None,
    )
