"""Refusals, answers and citations read from the text of an answer, by one of two protocols.

`DefaultProtocol` reads as a person does. `TrustEvalProtocol` repeats declare-lab's trust_eval 0.1.6 with every quirk,
so that scores can be compared with published ones. docs/evaluation.md has a row for each difference between the two.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rapidfuzz.distance import Indel, Levenshtein

from grpo.data.example import Example
from grpo.data.sentences import statements
from grpo.data.text import REFUSALS, contains, normalize, words
from grpo.errors import UserError
from rewards.answer import accepted_answers, parse, refuses

MAX_CITATIONS = 3
"""The first three citations of a statement count; trust_eval's prompt asks for at most three."""

REFUSAL_FLAG = normalize("I apologize, but I couldn't find an answer")
REFUSAL_THRESHOLD = 85


@dataclass(frozen=True, slots=True)
class CitedStatement:
    """`CitedStatement("Daei scored 109 goals.", sources=(0, 2), citations=2)`."""

    text: str  # the hypothesis for the judge, without citation marks
    sources: tuple[int, ...]  # indices of the cited passages; empty when none or an unknown passage is cited
    citations: int  # the denominator of the citation precision


class ExtractionProtocol(Protocol):
    """The rules by which the metric reads an answer."""

    name: str
    splitter: str  # of sentences
    keeps_footnotes: bool  # the judge reads the footnote marks of the passages
    allows_shared_citations: bool  # an unneeded citation counts when it shares a supported answer with the others
    scores_empty_answers: bool  # an answer without statements has citation recall and precision 0, instead of none
    regrades_refusals: bool  # correctness tests for a refusal again, on the text without citation marks

    def is_refusal(self, text: str) -> bool: ...

    def strip_citations(self, text: str) -> str: ...

    def contains_answer(self, text: str, aliases: Sequence[str]) -> bool:
        """Whether a text without citation marks contains any spelling of an answer."""
        ...

    def key(self, text: str) -> str:
        """What equal list entries have in common."""
        ...

    def list_items(self, text: str, example: Example) -> list[str]:
        """The keys of the entries of a list."""
        ...

    def claim_wordings(self, aliases: tuple[str, ...]) -> tuple[str, ...]:
        """The wordings of a claim that the judge is asked about."""
        ...

    def statements(self, text: str, example: Example) -> list[CitedStatement]: ...


class TrustEvalProtocol:
    """The rules of trust_eval 0.1.6, quirks included."""

    name = "reference"
    splitter = "nltk punkt_tab"
    keeps_footnotes = True
    allows_shared_citations = True
    scores_empty_answers = False
    regrades_refusals = True

    def __init__(self) -> None:
        """UserError where the data of NLTK's punkt for English is not installed."""
        from nltk.tokenize.punkt import PunktTokenizer  # imported here, since the import takes a second

        try:
            self._split = PunktTokenizer("english").tokenize
        except LookupError:
            raise UserError("--reference needs NLTK's punkt data, which is not installed; run `make setup`") from None

    def is_refusal(self, text: str) -> bool:
        """partial_ratio(flag, text) > 85 on normalized texts; a piece of the flag ("an answer") is a refusal too."""
        return partial_ratio(REFUSAL_FLAG, normalize(text)) > REFUSAL_THRESHOLD

    def strip_citations(self, text: str) -> str:
        """Removes `[n`, " |" and every "]": "see [1, 2]" becomes "see, 2"."""
        return re.sub(r" ?\[\d+", "", text).replace(" |", "").replace("]", "")

    def contains_answer(self, text: str, aliases: Sequence[str]) -> bool:
        """Substring match after normalization: "38" is in "1938", and an empty spelling is in every text."""
        body = normalize(text)
        return any(normalize(alias) in body for alias in aliases)

    def key(self, text: str) -> str:
        return normalize(text)

    def list_items(self, text: str, example: Example) -> list[str]:
        pieces = _pieces(self.strip_citations(text))
        return [item for item in (normalize(piece) for piece in pieces) if item]

    def claim_wordings(self, aliases: tuple[str, ...]) -> tuple[str, ...]:
        return aliases[:1]

    def statements(self, text: str, example: Example) -> list[CitedStatement]:
        """Sentences, or question and item. An unknown passage voids the citations of its statement; [0] is the last."""
        listed = example.style == "list"
        pieces = [f"{example.question} {p.strip()}" for p in _pieces(text)] if listed else self._split(text)
        count = len(example.passages)
        found = []
        for piece in pieces:
            sources = [_index(digits) for digits in re.findall(r"\[(\d+)", piece)]
            kept = () if any(source >= count for source in sources) else tuple(sources[:MAX_CITATIONS])
            found.append(CitedStatement(self.strip_citations(piece).strip(), tuple(s % count for s in kept), len(kept)))
        return found


class DefaultProtocol:
    """The reading of the rewards (`grpo.data.text`, `grpo.data.sentences`): "[1, 3]" cites both passages."""

    name = "default"
    splitter = "grpo.data.sentences"
    keeps_footnotes = False
    allows_shared_citations = False
    scores_empty_answers = True
    regrades_refusals = False

    def __init__(self, refusals: Sequence[str] = REFUSALS) -> None:
        self._refusals = refusals

    def is_refusal(self, text: str) -> bool:
        """The rule of the rewards: a piece of the refusal sentence is no refusal."""
        return refuses(text, self._refusals)

    def strip_citations(self, text: str) -> str:
        """The statements of a text, a line each: without citation marks and the numbers of a list."""
        return "\n".join(said for said, _ in statements(text)[0])

    def contains_answer(self, text: str, aliases: Sequence[str]) -> bool:
        return contains(text, aliases)

    def key(self, text: str) -> str:
        return words(text)

    def list_items(self, text: str, example: Example) -> list[str]:
        answer = parse(text, style="list", reasoning=False, names=accepted_answers(example))
        return [words(statement.text) for statement in answer.statements]

    def claim_wordings(self, aliases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(alias for alias in aliases if words(alias))

    def statements(self, text: str, example: Example) -> list[CitedStatement]:
        """Sentences, or question and item, each with the citations behind its full stop; every citation counts."""
        answer = parse(text, style=example.style, reasoning=False, names=accepted_answers(example))
        found = []
        for statement in answer.statements:
            cited = tuple(dict.fromkeys(number - 1 for number in statement.cites))[:MAX_CITATIONS]
            known = all(0 <= source < len(example.passages) for source in cited)
            hypothesis = f"{example.question} {statement.text}" if example.style == "list" else statement.text
            found.append(CitedStatement(hypothesis, cited if known else (), len(cited)))
        return found


def partial_ratio(a: str, b: str) -> int:
    """The best match of the shorter text with a substring of the longer one, 0 to 100, as fuzzywuzzy 0.18 computes it.

    fuzzywuzzy tries only substrings that begin at a block of the alignment, and rounds. rapidfuzz tries all: 81.7
    instead of 78 for "I'm sorry, but I couldn't find an answer ...".
    """
    shorter, longer = (a, b) if len(a) <= len(b) else (b, a)
    if not shorter:
        return 100 if a == b else 0
    best = 0.0
    for block in Levenshtein.editops(shorter, longer).as_matching_blocks():
        start = max(block.b - block.a, 0)
        best = max(best, Indel.normalized_similarity(shorter, longer[start : start + len(shorter)]))
        if best > 0.995:
            return 100
    return round(100 * best)


def _pieces(text: str) -> list[str]:
    return text.rstrip().rstrip(".").rstrip(",").split(",")


def _index(digits: str) -> int:
    """The passage index; numbers of ten digits and more are no passage (`int` reads at most 4,300 digits)."""
    return int(digits) - 1 if len(digits) < 10 else 10**9
