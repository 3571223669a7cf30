"""Causes of zero variance: whether the answers of a group were all right, wrong, refused, cut off or malformed.

The cause is read from the answers and their labels, not from the rewards, so that it holds for every recipe.
"""

from collections import Counter
from collections.abc import Sequence

from grpo.data.example import Example
from grpo.data.text import REFUSALS, contains
from grpo.types import Group
from rewards.answer import ParsedAnswer, final_answer, is_abstention, parse_completion
from rewards.factuality import outcomes
from rewards.judges.base import ENTAILMENT_THRESHOLD
from rewards.judges.lexical import LexicalJudge

CAUSES = ("truncated", "malformed", "refused", "right", "wrong", "mixed")


def cause(group: Group, *, reasoning: bool, refusals: Sequence[str] = REFUSALS) -> str:
    """The first of CAUSES that holds for all completions of a group.

    truncated   cut off at max_tokens
    malformed   not in the required format
    refused     refused, though the passages hold an answer; of closed-book questions: abstained
    right       an answer that the passages hold, or a refusal if they hold none
    wrong       neither
    mixed       none of these; the scores are equal by chance, or by a custom reward
    """
    if all(completion.finish == "length" for completion in group.completions):
        return "truncated"
    answers = [parse_completion(group.example, c, reasoning=reasoning, refusals=refusals) for c in group.completions]
    if not any(answer.well_formed for answer in answers):
        return "malformed"
    if group.example.answerable and all(_declines(group.example, answer, refusals) for answer in answers):
        return "refused"
    right = [is_right(group.example, answer, refusals) for answer in answers]
    return "right" if all(right) else "mixed" if any(right) else "wrong"


def is_right(example: Example, answer: ParsedAnswer, refusals: Sequence[str]) -> bool:
    """Whether an answer states an answer that the passages hold, or refuses if they hold none.

    A claim is stated if the lexical judge finds it entailed. A closed-book question has no passages: any of its answers
    is right, in the box, or abstaining if it has none.
    """
    if not answer.well_formed:
        return False
    if example.style == "closed":
        expected = "right" if example.answerable else "abstained"
        return outcomes(example, [answer], {}, refusals) == [expected]
    if answer.refused or not example.answerable:
        return answer.refused and not example.answerable
    said = "\n".join(statement.text for statement in answer.statements)
    if example.style == "claims":
        pairs = [(said, claim) for a in example.answerable_indices for claim in example.answers[a]]
        return any(p > ENTAILMENT_THRESHOLD for p in LexicalJudge().entails(pairs))
    return any(contains(said, example.answers[a]) for a in example.answerable_indices)


def _declines(example: Example, answer: ParsedAnswer, refusals: Sequence[str]) -> bool:
    if example.style == "closed":
        return answer.well_formed and is_abstention(final_answer(answer)[1], refusals)
    return answer.refused


def count_causes(groups: Sequence[Group], *, reasoning: bool, refusals: Sequence[str] = REFUSALS) -> dict[str, float]:
    """{"zero_variance_right": 2.0, ...}: the number of these zero-variance groups of each cause, zeros included."""
    counts = Counter(cause(group, reasoning=reasoning, refusals=refusals) for group in groups)
    return {f"zero_variance_{name}": float(counts[name]) for name in CAUSES}
