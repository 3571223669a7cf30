"""Do the cited passages say so? R_citation (Ground-GRPO eq 2), for the statements that were right.

    +0.5  the cited passages, joined, entail the statement
    -0.5  cited, but they do not, or a cited number has no passage
     0    no citation ("otherwise"; the prose of the paper could be read as -0.5)

Joint entailment is our choice, and the metric's citation recall; the paper does not say. For lists the statement is the
item alone: the metric prefixes the question, but no passage repeats the question's words, so that a lexical judge would
find no item supported.

In the paper citing every passage is as good as citing the right one. With `anti_gaming` the +0.5 is multiplied by the
metric's citation precision: the share of the cited passages that entail the statement alone, or without which the
others do not. (Left open: a statement that adds a stray word of every passage it cites needs them all, and is paid in
full.) And a statement of stop words alone, which a lexical judge finds in anything, must stand in the passages
word for word.
"""

from collections.abc import Iterator, Sequence

from grpo.data.example import Example
from grpo.data.text import STOP_WORDS, normalize
from rewards.answer import Statement
from rewards.judges.base import ENTAILED, Verifier, premise

CITED_RIGHT = 0.5

Sources = tuple[int, ...]
"""Distinct passage numbers, ascending: a premise is the same in whatever order it was cited."""

Supported = set[tuple[Sources, str]]
"""The (passages, statement) pairs in which the passages exist and entail the statement."""


def citation_rewards(
    example: Example,
    rows: Sequence[Sequence[Statement]],
    verifier: Verifier,
    *,
    penalty: float = 0.5,
    anti_gaming: bool = True,
    shares: Sequence[float] | None = None,
) -> list[float]:
    """R_citation (eq 2) of every completion of a group, summed over `rows`: the statements of each that were right.

    `penalty` is what a bad citation costs; 0 is the paper's ablation. `shares` multiplies what the good citations of
    each completion earn, and never a penalty (rewards.correctness.brevity). The verifier is asked once for the whole
    group, each distinct question once.
    """
    supported = _supported(example, rows, verifier, anti_gaming=anti_gaming)

    def reward(statement: Statement, share: float) -> float:
        sources = _sources(statement)
        if not sources:
            return 0.0
        if (sources, statement.text) not in supported:
            return -penalty
        return CITED_RIGHT * share * (precision(sources, statement.text, supported) if anti_gaming else 1.0)

    return [
        sum((reward(statement, share) for statement in row), 0.0)
        for row, share in zip(rows, shares or [1.0] * len(rows), strict=True)
    ]


def precision(sources: Sources, text: str, supported: Supported) -> float:
    """The share of the cited passages that are needed: phi(c, s) or not phi(the others, s), the metric's rule.

    >>> precision((1, 2), "s", {((1, 2), "s"), ((1,), "s")})
    0.5
    """
    if len(sources) == 1:
        return 1.0
    needed = [((n,), text) in supported or (_without(sources, n), text) not in supported for n in sources]
    return sum(needed) / len(sources)


def _sources(statement: Statement) -> Sources:
    return tuple(sorted(set(statement.cites)))


def _without(sources: Sources, number: int) -> Sources:
    return tuple(n for n in sources if n != number)


def _asked(sources: Sources, *, anti_gaming: bool) -> Iterator[Sources]:
    """The sets of passages to ask about for one citation: itself, and what its precision takes."""
    yield sources
    if anti_gaming and len(sources) > 1:
        for n in sources:
            yield (n,)
            yield _without(sources, n)


def _supported(
    example: Example, rows: Sequence[Sequence[Statement]], verifier: Verifier, *, anti_gaming: bool
) -> Supported:
    """What `citation_rewards` needs to know; asks the verifier once, and nothing about passages that do not exist."""
    count = len(example.passages)
    cited = dict.fromkeys((_sources(statement), statement.text) for row in rows for statement in row if statement.cites)
    asked = dict.fromkeys(
        (part, text)
        for sources, text in cited
        if sources[0] >= 1 and sources[-1] <= count
        for part in _asked(sources, anti_gaming=anti_gaming)
    )
    if not asked:
        return set()
    premises = {sources: premise([example.passages[n - 1] for n in sources]) for sources, _ in asked}
    verdicts = verifier.entails([(premises[sources], text) for sources, text in asked])
    return {
        (sources, text)
        for (sources, text), p in zip(asked, verdicts, strict=True)
        if p > ENTAILED and not (anti_gaming and _only_stop_words_elsewhere(text, premises[sources]))
    }


def _only_stop_words_elsewhere(text: str, source: str) -> bool:
    """Whether a statement has no word of content, and the passages do not have it word for word either."""
    body = normalize(text)
    return STOP_WORDS.issuperset(body.split()) and f" {body} " not in f" {normalize(source)} "
