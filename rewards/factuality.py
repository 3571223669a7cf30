"""Right where it can be, silent where it cannot? The fact and caution rewards of "GRPO for Factuality".

They need the whole group, since what an answer is worth depends on whether any sibling was right (Pan's slides, 2025):

    any right    right 1, process-correct 0.5, everything else 0, "Unknown" too       fact
    none right   not attempted 1, attempted and wrong 0                               caution

Each is 0 where the other one speaks, so that both weights at 1 are the slides' rule. The slides do not define
"process-correct". Ours: the reasoning names a gold answer, and the final answer is something else.

Right is what rewards.correctness.said finds: an alias by containment, whole words for short ones, and for claims what
entails them. An answer that lists many candidates is thus right if one
of them is; with several gold answers, one is enough, as in the slides' data.
"""

from collections.abc import Sequence
from typing import Literal

from grpo.data.example import Example
from rewards.answer import Answer, Statement
from rewards.boxed import final_answer, is_silent
from rewards.correctness import said
from rewards.judges.base import Verifier
from rewards.refusal import is_refusal, rscore

Verdict = Literal["right", "process", "silent", "wrong"]

PROCESS = 0.5


def verdicts(example: Example, answers: Sequence[Answer], verifier: Verifier) -> list[Verdict]:
    """What each answer of a group is; the verifier is asked at most once, and only for claims.

    Malformed is wrong. A refusal that goes on to answer is neither silent nor right.
    """
    parts = [final_answer(answer) for answer in answers]
    rows = [[Statement(text, ()) for text in pair] for pair in parts]
    found = said(example, rows, verifier)
    return [
        _verdict(answer, final, said_by_final=bool(right), said_by_reasoning=bool(thought))
        for answer, (_, final), (thought, right) in zip(answers, parts, found, strict=True)
    ]


def _verdict(answer: Answer, final: str, *, said_by_final: bool, said_by_reasoning: bool) -> Verdict:
    if not answer.well_formed:
        return "wrong"
    if is_silent(final):
        return "silent"
    if said_by_final:
        return "wrong" if is_refusal(rscore(final)) else "right"
    return "process" if said_by_reasoning else "wrong"


def fact(group: Sequence[Verdict]) -> list[float]:
    """1 right, 0.5 process-correct, 0 otherwise, where any answer of the group is right; else all 0.

    >>> fact(["right", "wrong", "silent", "process", "wrong"])
    [1.0, 0.0, 0.0, 0.5, 0.0]
    """
    if "right" not in group:
        return [0.0] * len(group)
    return [{"right": 1.0, "process": PROCESS}.get(each, 0.0) for each in group]


def caution(group: Sequence[Verdict]) -> list[float]:
    """1 for attempting nothing, where no answer of the group is right; else all 0.

    >>> caution(["wrong", "silent", "wrong", "wrong", "silent"])
    [0.0, 1.0, 0.0, 0.0, 1.0]
    """
    if "right" in group:
        return [0.0] * len(group)
    return [float(each == "silent") for each in group]
