"""Do the cited passages say so? R_citation (Ground-GRPO eq 2), for the statements that were right.

    +0.5  the cited passages, joined, entail the statement
    -0.5  cited, but they do not, or a cited number has no passage
     0    no citation ("otherwise"; the prose of the paper could be read as -0.5)

Joint entailment is our choice, and the metric's citation recall; the paper does not say. Citing more than needed costs
nothing here. For lists the statement is the item alone: the metric prefixes the question, but no passage repeats the
question's words, so that a lexical judge would find no item supported.
"""

from collections.abc import Sequence

from grpo.types import Example
from rewards.entailment import ENTAILED, Verifier, premise
from rewards.parse import Statement

CITED_RIGHT = 0.5


def citation_rewards(
    example: Example, rows: Sequence[Sequence[Statement]], verifier: Verifier, *, penalty: float = 0.5
) -> list[float]:
    """R_citation (eq 2) of every completion of a group, summed over `rows`: the statements of each that were right.

    `penalty` is what a bad citation costs; 0 is the paper's ablation. The verifier is asked once for the whole group,
    each distinct question once.
    """
    supported = _supported(example, rows, verifier)

    def reward(statement: Statement) -> float:
        if not statement.cites:
            return 0.0
        return CITED_RIGHT if (_sources(statement), statement.text) in supported else -penalty

    return [sum((reward(statement) for statement in row), 0.0) for row in rows]


def _sources(statement: Statement) -> tuple[int, ...]:
    """The distinct numbers that a statement cites, ascending: a premise is the same in whatever order it was cited."""
    return tuple(sorted(set(statement.cites)))


def _supported(
    example: Example, rows: Sequence[Sequence[Statement]], verifier: Verifier
) -> set[tuple[tuple[int, ...], str]]:
    """The (cited numbers, statement text) pairs whose passages exist and entail the text; asks the verifier once."""
    count = len(example.passages)
    cited = dict.fromkeys((_sources(statement), statement.text) for row in rows for statement in row if statement.cites)
    asked = [(sources, text) for sources, text in cited if sources[0] >= 1 and sources[-1] <= count]
    if not asked:
        return set()
    premises = {sources: premise([example.passages[n - 1] for n in sources]) for sources, _ in asked}
    verdicts = verifier.entails([(premises[sources], text) for sources, text in asked])
    return {pair for pair, p in zip(asked, verdicts, strict=True) if p > ENTAILED}
