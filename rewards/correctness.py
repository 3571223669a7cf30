"""Is it right? R_EM (Ground-GRPO eq 1): 0.5 for each statement that says a gold answer.

The paper sums over statements without a bound, so that one right sentence written n times earns n times the reward.
By default a statement earns only if it says a gold answer that no statement before it said. That is never more than the
paper's sum, and at most 0.5 per gold answer. The first mention counts, not the best: else a model could cite each
passage in turn and keep the hit. Its price: after "Both A and B won." the sentences on A and B alone earn nothing.
"""

from collections.abc import Sequence

from grpo.text import normalize
from grpo.types import Example
from rewards.entailment import ENTAILED, Verifier
from rewards.parse import Statement

Said = frozenset[int]
"""The gold answers, by index from 0, that a statement says."""

EXACT_MATCH = 0.5


def gold(example: Example) -> dict[int, dict[str, str]]:
    """The answers that may be rewarded: index -> {normalized spelling: spelling}, blank spellings left out.

    Only answers that the passages support: what no passage holds was not answered from the passages. (The paper does
    not say.) A closed question has no passages, so there every answer counts.
    """
    indices = range(len(example.answers)) if example.style == "closed" else example.supported
    spellings = {index: {normalize(alias): alias for alias in example.answers[index]} for index in indices}
    return {index: {key: alias for key, alias in aliases.items() if key} for index, aliases in spellings.items()}


def said(example: Example, rows: Sequence[Sequence[Statement]], verifier: Verifier) -> list[list[Said]]:
    """Which gold answers each statement says, for the statements of every completion of a group.

    Containment of any spelling after normalization (the rule of grpo.text.contains, each text normalized once). A claim
    is a whole sentence and rarely repeated word for word, so for claims a statement that entails it says it too.
    """
    answers = gold(example)
    bodies = {statement.text: normalize(statement.text) for row in rows for statement in row}
    entailed = _entailed(bodies, answers, verifier) if example.style == "claims" else set()

    def says(text: str) -> Said:
        body = bodies[text]
        return frozenset(a for a, keys in answers.items() if any(key in body for key in keys) or (text, a) in entailed)

    known = {text: says(text) for text in bodies}
    return [[known[statement.text] for statement in row] for row in rows]


def _entailed(bodies: dict[str, str], answers: dict[int, dict[str, str]], verifier: Verifier) -> set[tuple[str, int]]:
    """The (statement, claim index) pairs that the verifier affirms, in one call; contained claims are not asked."""
    asked = [
        (text, index, alias)
        for text, body in bodies.items()
        for index, aliases in answers.items()
        if not any(key in body for key in aliases)
        for alias in aliases.values()
    ]
    if not asked:
        return set()
    verdicts = verifier.entails([(text, alias) for text, _, alias in asked])
    return {(text, index) for (text, index, _), p in zip(asked, verdicts, strict=True) if p > ENTAILED}


def credited(row: Sequence[Said], *, paper_sum: bool = False) -> tuple[int, ...]:
    """Which statements of a completion earn, by index: those with a new gold answer; with `paper_sum`, with any.

    >>> credited([frozenset({0}), frozenset(), frozenset({0}), frozenset({0, 1})])
    (0, 3)
    >>> credited([frozenset({0}), frozenset(), frozenset({0}), frozenset({0, 1})], paper_sum=True)
    (0, 2, 3)
    """
    seen: set[int] = set()
    earning = []
    for index, answers in enumerate(row):
        if answers - seen or (paper_sum and answers):
            earning.append(index)
        seen |= answers
    return tuple(earning)


def exact_match(correct: int) -> float:
    """R_EM (eq 1) of a completion: sum over its statements of 0.5 [s_i has an exact match] = 0.5 * correct."""
    return EXACT_MATCH * correct
