"""Refusals, answers and citations read from the text of an answer, by one of two protocols.

`DefaultProtocol` reads as a person does. `TrustEvalProtocol` repeats declare-lab's trust_eval 0.1.6 with every quirk,
so that scores can be compared with published ones. docs/evaluation.md has a row for each difference between the two.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rapidfuzz.distance import Indel, Levenshtein

from grpo.data.example import Example
from grpo.data.text import CITATION, normalize, strip_citations
from rewards.answer import parse

MAX_CITATIONS = 3
"""The first three citations of a statement count; trust_eval's prompt asks for at most three."""

REFUSAL_FLAG = normalize("I apologize, but I couldn't find an answer")
REFUSAL_THRESHOLD = 85
PUNKT = "nltk punkt_tab"


@dataclass(frozen=True, slots=True)
class Splitter:
    """A sentence splitter: `split` takes a text and returns its sentences, none of them blank."""

    name: str
    split: Callable[[str], list[str]]


def make_splitter() -> Splitter:
    """NLTK's punkt for English, or the rule-based sentencex where punkt's data is not installed.

    The two disagree at times: "[1]" after a full stop begins a sentence for punkt and ends one for sentencex.
    """
    from nltk.tokenize.punkt import PunktTokenizer  # imported here, since the import takes a second

    try:
        punkt = PunktTokenizer("english")
    except LookupError:
        return rule_based_splitter()
    return Splitter(PUNKT, punkt.tokenize)


def rule_based_splitter() -> Splitter:
    """sentencex, whose package contains its rules for English."""
    from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue] (compiled, without stubs)

    def split(text: str) -> list[str]:
        utf8 = text.encode(errors="replace").decode()  # sentencex refuses half of a surrogate pair
        return [piece.strip() for piece in segment("en", utf8) if piece.strip()]

    return Splitter("sentencex", split)


@dataclass(frozen=True, slots=True)
class CitedStatement:
    """`CitedStatement("Daei scored 109 goals.", sources=(0, 2), citations=2)`."""

    text: str  # the hypothesis for the judge, without citation marks
    sources: tuple[int, ...]  # indices of the cited passages; empty when none or an unknown passage is cited
    citations: int  # the denominator of the citation precision


class ExtractionProtocol(Protocol):
    """The rules by which the metric reads an answer."""

    name: str
    allows_shared_citations: bool  # an unneeded citation counts when it shares a supported answer with the others
    scores_empty_answers: bool  # an answer without statements has citation recall and precision 0, instead of none
    regrades_refusals: bool  # correctness tests for a refusal again, on the text without citation marks

    def is_refusal(self, text: str) -> bool: ...

    def strip_citations(self, text: str) -> str: ...

    def contains_answer(self, text: str, aliases: Sequence[str]) -> bool:
        """Whether a text without citation marks contains any spelling of an answer."""
        ...

    def list_items(self, text: str, example: Example) -> list[str]:
        """The normalized entries of a comma-separated list without citation marks."""
        ...

    def claim_wordings(self, aliases: tuple[str, ...]) -> tuple[str, ...]:
        """The wordings of a claim that the judge is asked about."""
        ...

    def statements(self, text: str, example: Example) -> list[CitedStatement]: ...


class TrustEvalProtocol:
    """The rules of trust_eval 0.1.6, quirks included."""

    name = "reference"
    allows_shared_citations = True
    scores_empty_answers = False
    regrades_refusals = True

    def __init__(self, splitter: Splitter) -> None:
        self._split = splitter.split

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

    def list_items(self, text: str, example: Example) -> list[str]:
        return [item for item in (normalize(piece) for piece in _pieces(text)) if item]

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
    """The rules that a human reader expects: "[1, 3]" cites both passages."""

    name = "default"
    allows_shared_citations = False
    scores_empty_answers = True
    regrades_refusals = False

    def __init__(self, splitter: Splitter) -> None:
        self._split = splitter.split

    def is_refusal(self, text: str) -> bool:
        """The rule of the rewards: a piece of the refusal sentence is no refusal."""
        return parse(text, style="prose", reasoning=False).refused

    def strip_citations(self, text: str) -> str:
        return strip_citations(_split_brackets(text))

    def contains_answer(self, text: str, aliases: Sequence[str]) -> bool:
        return contains_answer(text, aliases)

    def list_items(self, text: str, example: Example) -> list[str]:
        """Entries; an accepted answer that contains a comma stays whole."""
        return [
            item for item in (normalize(piece) for piece in _pieces(_join_answers_with_commas(text, example))) if item
        ]

    def claim_wordings(self, aliases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(alias for alias in aliases if normalize(alias))

    def _sentences(self, text: str) -> list[str]:
        """Sentences line by line, without list bullets and numbers, whose full stop would end a sentence."""
        lines = (re.sub(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+", "", line) for line in text.split("\n"))
        return [sentence for line in lines if line.strip() for sentence in self._split(line)]

    def statements(self, text: str, example: Example) -> list[CitedStatement]:
        """Sentences, or question and item, each with the citations behind its full stop; every citation counts."""
        text = _split_brackets(text)
        listed = example.style == "list"
        pieces = (
            _pieces(_join_answers_with_commas(text, example))
            if listed
            else _attach_trailing_citations(self._sentences(text))
        )
        found = []
        for piece in pieces:
            said = strip_citations(piece)
            if not normalize(said):
                continue
            cited = list(dict.fromkeys(_index(digits) for digits in CITATION.findall(piece)))[:MAX_CITATIONS]
            known = all(0 <= source < len(example.passages) for source in cited)
            hypothesis = f"{example.question} {said}" if listed else said
            found.append(CitedStatement(hypothesis, tuple(cited) if known else (), len(cited)))
        return found


def contains_answer(text: str, aliases: Sequence[str]) -> bool:
    """Whole-word match on normalized texts ("U.S." contains "US") or on texts split at punctuation ("Paris-based").

    A spelling that normalizes to nothing is in no text.
    """
    bodies = [(read, f" {read(text)} ") for read in (normalize, _words)]
    keys = [alias for alias in aliases if normalize(alias)]
    return any((key := read(alias)) and f" {key} " in body for alias in keys for read, body in bodies)


def _words(text: str) -> str:
    """Lower case, letters and digits only, without articles and a possessive 's.

    >>> _words("The Paris-based club’s year: 1914–1918")
    'paris based club year 1914 1918'
    """
    plain = re.sub(r"[\W_]+", " ", re.sub(r"['’]s\b", " ", text.lower()))
    return " ".join(word for word in plain.split() if word not in ("a", "an", "the"))


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


def _split_brackets(text: str) -> str:
    """ "[1, 3]" and "[1; 3]" as "[1][3]", "[1-3]" as "[1][2][3]"."""

    def spread(match: re.Match[str]) -> str:
        numbers: list[str] = []
        for part in re.split(r"[,;]", match.group(1)):
            ends = [int(digits) for digits in re.findall(r"\d{1,9}", part)]
            several = len(ends) == 2 and 0 < ends[1] - ends[0] < 20
            numbers += [str(n) for n in (range(ends[0], ends[1] + 1) if several else ends)]
        return "".join(f"[{number}]" for number in numbers)

    return re.sub(r"\[(\d+(?:\s*[,;\u2010-\u2014-]\s*\d+)+)\]", spread, text)


def _attach_trailing_citations(sentences: Sequence[str]) -> list[str]:
    """Sentences, with citations behind a full stop moved to the sentence before."""
    found: list[str] = []
    for sentence in sentences:
        leading = re.match(r"(?:\s*\(?\[\d+\]\)?)+", sentence)
        moved = leading.end() if leading and found else 0
        if moved:
            found[-1] += sentence[:moved]
        if sentence[moved:].strip():
            found.append(sentence[moved:])
    return found


def _join_answers_with_commas(text: str, example: Example) -> str:
    """The text without the commas inside accepted answers, which are no separators."""
    holding = {alias for aliases in example.answers for alias in aliases if "," in alias}
    for alias in sorted(holding, key=lambda alias: (-len(alias), alias)):
        whole, bare = rf"(?<!\w){re.escape(alias)}(?!\w)", alias.replace(",", "")
        text = re.sub(whole, lambda _, bare=bare: bare, text, flags=re.IGNORECASE)
    return text
