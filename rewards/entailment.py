"""Does one text follow from another? One protocol for every judge, and the deterministic one that needs no model."""

from collections.abc import Callable, Sequence
from typing import Protocol

from grpo.text import STOP_WORDS, normalize
from grpo.types import InputError, Passage

ENTAILED = 0.5
"""A probability above this counts as entailed."""


class Verifier(Protocol):
    """Judges pairs in one batch, so that a model can be one forward pass."""

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The probability, 0 to 1, that each (premise, hypothesis) has its hypothesis follow from its premise."""
        ...


class Lexical:
    """Entailed iff every token of normalize(hypothesis) outside STOP_WORDS is a token of normalize(premise).

    Deterministic, needs no model, and easily fooled: word order and negation mean nothing to it. It is exactly the stub
    of the golden cases, so a hypothesis of stop words alone is trivially entailed, even by nothing. The rewards never
    ask about a text that normalizes to nothing.

    >>> Lexical().entails([("Ali Daei scored 109 goals.", "Daei has 109 goals."), ("A mural.", "A wall.")])
    [1.0, 0.0]
    """

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """1.0 or 0.0 for each pair. No token crosses a line, so that a passage shared by many premises is read once."""
        texts = {text for pair in pairs for text in pair}
        lines = {line: frozenset(normalize(line).split()) for text in texts for line in text.split("\n")}
        tokens = {text: frozenset().union(*(lines[line] for line in text.split("\n"))) for text in texts}
        return [1.0 if tokens[hypothesis] - STOP_WORDS <= tokens[premise] else 0.0 for premise, hypothesis in pairs]


VERIFIERS: dict[str, Callable[[], Verifier]] = {"lexical": Lexical}


def make_verifier(name: str) -> Verifier:
    """The verifier of that name; an unknown name is refused with the valid ones."""
    if name not in VERIFIERS:
        raise InputError(f"unknown verifier {name!r}; valid: {', '.join(sorted(VERIFIERS))}")
    return VERIFIERS[name]()


def premise(passages: Sequence[Passage]) -> str:
    """Passages as the metric shows them to a verifier: "Title: {title}\\n{text}", joined by newlines.

    >>> premise([Passage(title="Ali Daei", text="109 goals.")])
    'Title: Ali Daei\\n109 goals.'
    """
    return "\n".join(f"Title: {passage.title}\n{passage.text}" for passage in passages)
