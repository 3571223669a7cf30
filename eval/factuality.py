"""Factuality of closed-book answers: correct, not attempted or wrong, and the five buckets of questions.

From the slides "GRPO for Factuality" (Wenbo Pan, 11 March 2025), whose table has the shares of the buckets. The slides
do not define the buckets. Here they are a partition of the questions by the outcomes of n answers to each:

* all_correct: all n answers are correct;
* partial_correct: some answers are correct;
* all_not_attempted: all n answers say that they do not know;
* partial_not_attempted: some answers say so, the others are wrong;
* all_wrong: every answer is an attempt and wrong.

An answer is correct when its box, or its text without one, contains an accepted answer as whole words
(`grpo.data.text.contains`). `python -m benchmarks.human_agreement` compares this rule with human judges.

I questions, R rows of sums, K columns of `COLUMNS`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from eval.report.table import BUCKETS, FACTUALITY_METRICS
from eval.trust_score import Floats, percent
from grpo.data.example import Example
from grpo.data.text import contains
from grpo.errors import UserError
from grpo.types import Group
from rewards.answer import final_answer, is_abstention, parse, refuses

Outcome = Literal["correct", "not_attempted", "wrong"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
COLUMNS = ("questions", "answers", *OUTCOMES, "unanswerable", "unanswerable_not_attempted", *BUCKETS)
NAMES = (*FACTUALITY_METRICS, *BUCKETS)


def outcome(example: Example, text: str, *, reasoning: bool, refusals: Sequence[str], finished: bool = True) -> Outcome:
    """The outcome of one answer; a malformed one is wrong, and so is a refusal that also answers.

    A question without accepted answers can only be wrong or not attempted.
    """
    answer = parse(text, style="closed", reasoning=reasoning, finished=finished)
    final = final_answer(answer)[1]
    if not answer.well_formed:
        return "wrong"
    if is_abstention(final, refusals):
        return "not_attempted"
    correct = any(contains(final, spellings) for spellings in example.answers)
    return "correct" if correct and not refuses(final, refusals) else "wrong"


def outcomes(group: Group, *, reasoning: bool, refusals: Sequence[str]) -> list[Outcome]:
    """The outcome of every completion of a group."""
    form = {"reasoning": reasoning, "refusals": refusals}
    return [outcome(group.example, c.text, **form, finished=c.finish == "stop") for c in group.completions]


def bucket(outcomes: Sequence[str]) -> str:
    """The bucket of one question from the outcomes of its answers.

    >>> bucket(["wrong", "correct", "not_attempted"]), bucket(["wrong", "not_attempted"])
    ('partial_correct', 'partial_not_attempted')
    """
    correct, not_attempted = outcomes.count("correct"), outcomes.count("not_attempted")
    if correct:
        return "all_correct" if correct == len(outcomes) else "partial_correct"
    if not_attempted:
        return "all_not_attempted" if not_attempted == len(outcomes) else "partial_not_attempted"
    return "all_wrong"


def factuality_sums(questions: Sequence[tuple[Example, Sequence[str]]]) -> Floats:
    """[I, K]: the row of COLUMNS of each question.

    UserError where questions have different numbers of answers: with more answers "partial" is more likely, so that
    shares over mixed numbers compare nothing.
    """
    rows = []
    for example, found in questions:
        if len(found) != len(questions[0][1]):
            raise UserError(
                f"{example.id}: {len(found)} answers, and {questions[0][0].id} has {len(questions[0][1])}; "
                "expected equally many for every question"
            )
        counts = [found.count(name) for name in OUTCOMES]
        unanswerable = (0, 0) if example.answerable else (len(found), found.count("not_attempted"))
        rows.append((1, len(found), *counts, *unanswerable, *(bucket(found) == name for name in BUCKETS)))
    return np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))


def factuality_scores(sums_RK: Floats) -> Mapping[str, Floats]:
    """The metrics of NAMES in percent for each row of sums: [R, K] -> {name: [R]}. A share of nothing is 0."""
    s = dict(zip(COLUMNS, np.atleast_2d(sums_RK).T, strict=True))
    return {
        **{name: percent(s[name], s["answers"]) for name in OUTCOMES},
        "correct_given_attempted": percent(s["correct"], s["correct"] + s["wrong"]),
        "unanswerable_not_attempted": percent(s["unanswerable_not_attempted"], s["unanswerable"]),
        **{name: percent(s[name], s["questions"]) for name in BUCKETS},
    }


def factuality_metrics(groups: Sequence[Group], *, reasoning: bool, refusals: Sequence[str]) -> dict[str, float]:
    """The buckets and outcomes of a step's closed-book questions, in percent; {} where no such question was asked."""
    form = {"reasoning": reasoning, "refusals": refusals}
    asked = [(g.example, outcomes(g, **form)) for g in groups if g.example.style == "closed"]
    if not asked:
        return {}
    scores = factuality_scores(factuality_sums(asked).sum(0))
    return {name: float(scores[name][0]) for name in (*BUCKETS, *OUTCOMES)}
