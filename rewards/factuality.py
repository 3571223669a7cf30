"""The fact and caution rewards of "GRPO for Factuality" (Pan's slides, 2025).

What an answer earns depends on whether any answer of its group is right:

    any right    right 1, process-correct 0.5, everything else 0, "Unknown" too       fact
    none right   abstained 1, attempted and wrong 0                                   caution

Each reward is 0 where the other applies, so that both weights at 1 are the slides' rule. The slides do not define
"process-correct". Here, the reasoning names a gold answer and the final answer is something else.

Right is what rewards.correctness.answers_stated finds. An answer that lists many candidates is thus right if one of
them is. Of several gold answers one is enough, as in the slides' data.
"""

from collections.abc import Sequence
from typing import Literal

from grpo.data.example import Example
from rewards.answer import ParsedAnswer, Statement, final_answer, is_abstention, refuses
from rewards.correctness import answers_stated, claim_pairs
from rewards.judges.base import Pair, Verdicts

Outcome = Literal["right", "process", "abstained", "wrong"]

PROCESS_CORRECT = 0.5


def outcome_pairs(example: Example, answers: Sequence[ParsedAnswer]) -> list[Pair]:
    """The pairs that `outcomes` needs verdicts of; only claims have any."""
    return [pair for _, _, pair in claim_pairs(example, _reasoning_and_final(answers))]


def outcomes(
    example: Example, answers: Sequence[ParsedAnswer], verdicts: Verdicts, refusals: Sequence[str]
) -> list[Outcome]:
    """The outcome of each answer of a group; `refusals` are the sentences that count as refusals.

    A malformed answer is wrong. A refusal that goes on to answer is neither abstained nor right.
    """
    right = [bool(row[0]) for row in answers_stated(example, _reasoning_and_final(answers), verdicts)]
    return [
        _outcome(answer, refusals, reasoning_is_right=reasoning, final_is_right=final)
        for answer, reasoning, final in zip(answers, right[::2], right[1::2], strict=True)
    ]


def _reasoning_and_final(answers: Sequence[ParsedAnswer]) -> list[list[Statement]]:
    """Two rows for each answer: its reasoning, and its final answer."""
    return [[Statement(text, ())] for answer in answers for text in final_answer(answer)]


def _outcome(
    answer: ParsedAnswer, refusals: Sequence[str], *, final_is_right: bool, reasoning_is_right: bool
) -> Outcome:
    _, final = final_answer(answer)
    if not answer.well_formed:
        return "wrong"
    if is_abstention(final, refusals):
        return "abstained"
    if final_is_right:
        return "wrong" if refuses(final, refusals) else "right"
    return "process" if reasoning_is_right else "wrong"


def fact(group: Sequence[Outcome]) -> list[float]:
    """1 right, 0.5 process-correct, 0 otherwise, if any answer of the group is right; else all 0.

    >>> fact(["right", "wrong", "abstained", "process", "wrong"])
    [1.0, 0.0, 0.0, 0.5, 0.0]
    """
    if "right" not in group:
        return [0.0] * len(group)
    return [{"right": 1.0, "process": PROCESS_CORRECT}.get(each, 0.0) for each in group]


def caution(group: Sequence[Outcome]) -> list[float]:
    """1 for abstaining if no answer of the group is right; else all 0.

    >>> caution(["wrong", "abstained", "wrong", "wrong", "abstained"])
    [0.0, 1.0, 0.0, 0.0, 1.0]
    """
    if "right" in group:
        return [0.0] * len(group)
    return [float(each == "abstained") for each in group]
