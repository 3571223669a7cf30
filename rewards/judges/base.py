"""The judge protocol: the probability that one text entails another. Also the lexical judge, which needs no model."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

from grpo.data.example import Passage
from grpo.data.text import STOP_WORDS, content_words

Pair = tuple[str, str]  # (premise, hypothesis)
Verdicts = Mapping[Pair, float]  # the probability of entailment of each pair that was judged
ENTAILMENT_THRESHOLD = 0.5  # a probability above this counts as entailed

_content_words = lru_cache(maxsize=4096)(content_words)  # a passage is part of many premises


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


class LexicalJudge:
    """Entailed iff every token of normalize(hypothesis) outside STOP_WORDS is a token of normalize(premise).

    Deterministic, and easily fooled: word order and negation have no effect. It is exactly the stub of the golden
    Trust-Score cases, so that anything entails a hypothesis of stop words.

    >>> LexicalJudge().entails([("Ali Daei scored 109 goals.", "Daei has 109 goals."), ("A mural.", "A wall.")])
    [1.0, 0.0]
    """

    def entails(self, pairs: Sequence[Pair]) -> list[float]:
        """1.0 or 0.0 for each pair."""
        return [1.0 if _covers(premise, hypothesis) else 0.0 for premise, hypothesis in pairs]


def ask(judge: Judge, pairs: Iterable[Pair]) -> dict[Pair, float]:
    """Verdicts of the distinct pairs, from one call of the judge, or from none if there are no pairs."""
    distinct = list(dict.fromkeys(pairs))
    return dict(zip(distinct, judge.entails(distinct), strict=True)) if distinct else {}


def pop_metrics(judge: Judge) -> dict[str, float]:
    """The judge's counts since the last call; none for a judge that does not count."""
    return judge.pop_metrics() if isinstance(judge, HasMetrics) else {}


def premise(passages: Sequence[Passage]) -> str:
    """Passages as the Trust-Score shows them to a judge: "Title: {title}\\n{text}", joined by newlines.

    >>> premise([Passage(title="Ali Daei", text="109 goals.")])
    'Title: Ali Daei\\n109 goals.'
    """
    return "\n".join(f"Title: {passage.title}\n{passage.text}" for passage in passages)


def _covers(premise: str, hypothesis: str) -> bool:
    """Whether all content tokens are there. Read line by line, so that a passage of many premises is read once."""
    missing = _content_words(hypothesis) - STOP_WORDS
    for line in premise.split("\n"):
        if not missing:
            break
        missing -= _content_words(line)
    return not missing
