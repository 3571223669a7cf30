"""R_citation (Ground-GRPO eq 2), for the statements with a gold answer.

    +0.5  the cited passages together entail the statement
    -0.5  they do not, or a cited number has no passage
     0    no citation ("otherwise"; the prose of the paper could be read as -0.5), or the judge cannot tell: a
          probability of exactly 0.5

Entailment by all cited passages together is the Trust-Score's citation recall; the paper leaves it open. In a list, the
statement is the item alone. The Trust-Score prefixes the question, but no passage repeats its words, so that a lexical
judge would find no item supported.

In the paper, citing every passage is as good as citing the right one. With `anti_gaming` the +0.5 is multiplied by the
Trust-Score's citation precision: the share of the cited passages that entail the statement alone, or without which the
others do not. (Left open: a statement that adds a stray word of every cited passage needs them all.)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from grpo.data.example import Example
from rewards.answer import Statement
from rewards.judges.base import ENTAILMENT_THRESHOLD, Pair, Verdicts, premise

CITED_RIGHT = 0.5

Sources = tuple[int, ...]  # distinct passage numbers in ascending order: a premise does not depend on their order
Citation = tuple[Sources, str]  # the cited passages and the text of the statement
Credited = tuple[Statement, float]  # a statement with a gold answer, and the share of eqs 1 and 2 that it earns


def citation_pairs(example: Example, rows: Iterable[Sequence[Credited]], *, anti_gaming: bool) -> dict[Citation, Pair]:
    """The pairs to judge for the citations of these statements; citations of missing passages are left out.

    With `anti_gaming` also the pairs that the precision of each citation needs.
    """
    count = len(example.passages)
    cited = dict.fromkeys(
        (_sources(statement), statement.text) for row in rows for statement, _ in row if statement.cites
    )
    wanted = dict.fromkeys(
        (subset, text)
        for sources, text in cited
        if sources[0] >= 1 and sources[-1] <= count
        for subset in _subsets(sources, anti_gaming=anti_gaming)
    )
    premises = {sources: premise([example.passages[n - 1] for n in sources]) for sources, _ in wanted}
    return {(sources, text): (premises[sources], text) for sources, text in wanted}


def citation_rewards(
    rows: Sequence[Sequence[Credited]],
    pairs: Mapping[Citation, Pair],
    verdicts: Verdicts,
    *,
    penalty: float,
    factors: Sequence[float],
    anti_gaming: bool,
) -> list[float]:
    """R_citation (eq 2) of every completion of a group, summed over `rows`, the credited statements of each.

    `pairs` are the `citation_pairs` of the same rows. `penalty` is the cost of a bad citation; 0 is the paper's
    ablation. `factors`, one per completion, multiply the rewards of good citations and never a penalty
    (rewards.correctness.length_penalty).
    """
    supported = {citation for citation, pair in pairs.items() if verdicts[pair] > ENTAILMENT_THRESHOLD}

    def reward(statement: Statement, factor: float) -> float:
        sources = _sources(statement)
        if not sources:
            return 0.0
        if (sources, statement.text) not in supported:
            pair = pairs.get((sources, statement.text))
            return 0.0 if pair and verdicts[pair] == ENTAILMENT_THRESHOLD else -penalty
        return CITED_RIGHT * factor * (precision(sources, statement.text, supported) if anti_gaming else 1.0)

    return [
        sum((share * reward(statement, factor) for statement, share in row), 0.0)
        for row, factor in zip(rows, factors, strict=True)
    ]


def support(statement: Statement, pairs: Mapping[Citation, Pair], verdicts: Verdicts) -> float | None:
    """The judge's probability for the citations of a statement; None where they were not judged."""
    pair = pairs.get((_sources(statement), statement.text))
    return None if pair is None else verdicts[pair]


def precision(sources: Sources, text: str, supported: set[Citation]) -> float:
    """The share of the cited passages that are needed: phi(c, s) or not phi(the others, s), as in the Trust-Score.

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


def _subsets(sources: Sources, *, anti_gaming: bool) -> Iterator[Sources]:
    """The sets of passages to judge for one citation: itself, and those that its precision needs."""
    yield sources
    if anti_gaming and len(sources) > 1:
        for n in sources:
            yield (n,)
            yield _without(sources, n)
