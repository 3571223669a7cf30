"""The judge protocol: the probability that one text entails another."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from grpo.data.example import Passage
from grpo.data.text import drop_footnotes

Pair = tuple[str, str]  # (premise, hypothesis)
Verdicts = Mapping[Pair, float]  # the probability of entailment of each pair that was judged
ENTAILMENT_THRESHOLD = 0.5  # a probability above this counts as entailed


class Judge(Protocol):
    """Judges whether hypotheses follow from their premises, in one batch."""

    def entails(self, pairs: Sequence[Pair]) -> list[float]:
        """The probability, 0 to 1, that each premise entails its hypothesis."""
        ...


@runtime_checkable
class HasMetrics(Protocol):
    """A judge that counts its work, for the metrics."""

    def pop_metrics(self) -> dict[str, float]:
        """The counts since the last call, by name."""
        ...


def ask(judge: Judge, pairs: Iterable[Pair]) -> dict[Pair, float]:
    """Verdicts of the distinct pairs, from one call of the judge, or from none if there are no pairs."""
    distinct = list(dict.fromkeys(pairs))
    return dict(zip(distinct, judge.entails(distinct), strict=True)) if distinct else {}


def pop_metrics(judge: Judge) -> dict[str, float]:
    """The judge's counts since the last call; none for a judge that does not count."""
    return judge.pop_metrics() if isinstance(judge, HasMetrics) else {}


def premise(passages: Sequence[Passage], *, footnotes: bool = False) -> str:
    """Passages as the Trust-Score shows them to a judge: "Title: {title}\\n{text}", joined by newlines.

    Footnote marks of the source are dropped unless `footnotes`, since "Ann[2] Lee" is a name to any reader.

    >>> premise([Passage(title="Ali Daei", text="109 goals.")])
    'Title: Ali Daei\\n109 goals.'
    """
    shown = "\n".join(f"Title: {passage.title}\n{passage.text}" for passage in passages)
    return shown if footnotes else drop_footnotes(shown)
