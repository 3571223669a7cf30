"""What does an answer say, cite and refuse? Two readings of the same text, for the metric.

`Reader` is the default: what someone who reads the answer would say. `Field` repeats the field's evaluator (declare-lab
trust_eval 0.1.6, described in docs/evaluation.md) with every quirk, so that its numbers can be compared with published
ones. Each difference between the two is a row of docs/evaluation.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rapidfuzz.distance import Indel, Levenshtein

from eval.sentence_splitter import Splitter
from grpo.data.example import Example
from grpo.data.text import CITATION, normalize, strip_citations
from rewards.answer import parse

MOST_CITATIONS = 3
"""Of each statement the first three citations count: the prompt of the field asks for at most three."""

FLAG = normalize("I apologize, but I couldn't find an answer")
REFUSAL_ABOVE = 85


@dataclass(frozen=True, slots=True)
class Statement:
    """`Statement("Daei scored 109 goals.", sources=(0, 2), charged=2)`."""

    text: str  # what the sources are asked about, without citation marks
    sources: tuple[int, ...]  # passages by index, as cited; empty when none is cited, or one that does not exist
    charged: int  # citations that count in the precision


class Reading(Protocol):
    """How the metric reads."""

    name: str
    precise_if_shared: bool  # an unneeded citation still counts when it shares a supported answer with the others
    counts_silence: bool  # an answer without any statement has citation recall and precision 0, instead of none
    grades_bare: bool  # correctness asks again whether the text refuses, this time without its citation marks

    def refused(self, text: str) -> bool: ...

    def bare(self, text: str) -> str:
        """The text without its citation marks."""
        ...

    def says(self, text: str, aliases: Sequence[str]) -> bool:
        """Whether a text without citation marks holds an answer, in any of its spellings."""
        ...

    def items(self, text: str, example: Example) -> list[str]:
        """The entries of a comma list without citation marks, normalized."""
        ...

    def claims(self, aliases: tuple[str, ...]) -> tuple[str, ...]:
        """The wordings of a claim that count."""
        ...

    def statements(self, text: str, example: Example) -> list[Statement]: ...


class Field:
    """The field's evaluator, quirks included. Text is the raw output, citation marks and all."""

    name = "reference"
    precise_if_shared = True
    counts_silence = False
    grades_bare = True

    def __init__(self, splitter: Splitter) -> None:
        self._split = splitter.split

    def refused(self, text: str) -> bool:
        """partial_ratio(flag, text) > 85, of normalized texts: a piece of the flag ("an answer") is a refusal."""
        return partial_ratio(FLAG, normalize(text)) > REFUSAL_ABOVE

    def bare(self, text: str) -> str:
        """Without `[n`, " |" and any "]": "see [1, 2]" becomes "see, 2"."""
        return re.sub(r" ?\[\d+", "", text).replace(" |", "").replace("]", "")

    def says(self, text: str, aliases: Sequence[str]) -> bool:
        """A substring after normalization: "38" is in "1938", and a spelling that normalizes to nothing in any text."""
        body = normalize(text)
        return any(normalize(alias) in body for alias in aliases)

    def items(self, text: str, example: Example) -> list[str]:
        return [item for item in (normalize(piece) for piece in _pieces(text)) if item]

    def claims(self, aliases: tuple[str, ...]) -> tuple[str, ...]:
        return aliases[:1]

    def statements(self, text: str, example: Example) -> list[Statement]:
        """Sentences, or question and item. A number too high voids all of its statement; [0] is the last passage."""
        listed = example.style == "list"
        pieces = [f"{example.question} {p.strip()}" for p in _pieces(text)] if listed else self._split(text)
        count = len(example.passages)
        found = []
        for piece in pieces:
            sources = [_index(digits) for digits in re.findall(r"\[(\d+)", piece)]
            kept = () if any(source >= count for source in sources) else tuple(sources[:MOST_CITATIONS])
            found.append(Statement(self.bare(piece).strip(), tuple(s % count for s in kept), len(kept)))
        return found


class Reader:
    """What a reader expects. A text with several answers in one bracket, "[1, 3]", cites both."""

    name = "default"
    precise_if_shared = False
    counts_silence = True
    grades_bare = False

    def __init__(self, splitter: Splitter) -> None:
        self._split = splitter.split

    def refused(self, text: str) -> bool:
        """As in training: a piece of the refusal sentence is none."""
        return parse(text, style="prose", reasoning=False).refused

    def bare(self, text: str) -> str:
        return strip_citations(_one_bracket_each(text))

    def says(self, text: str, aliases: Sequence[str]) -> bool:
        return says(text, aliases)

    def items(self, text: str, example: Example) -> list[str]:
        """Entries; an accepted answer that holds a comma itself stays whole."""
        return [item for item in (normalize(piece) for piece in _pieces(_kept_whole(text, example))) if item]

    def claims(self, aliases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(alias for alias in aliases if normalize(alias))

    def _sentences(self, text: str) -> list[str]:
        """Line by line, without the bullets and numbers of a list, which would look like the end of a sentence."""
        lines = (re.sub(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+", "", line) for line in text.split("\n"))
        return [sentence for line in lines if line.strip() for sentence in self._split(line)]

    def statements(self, text: str, example: Example) -> list[Statement]:
        """Sentences, or question and item, each with the citations behind its full stop; every citation is charged."""
        text = _one_bracket_each(text)
        listed = example.style == "list"
        pieces = _pieces(_kept_whole(text, example)) if listed else _own_citations(self._sentences(text))
        found = []
        for piece in pieces:
            said = strip_citations(piece)
            if not normalize(said):
                continue
            cited = list(dict.fromkeys(_index(digits) for digits in CITATION.findall(piece)))[:MOST_CITATIONS]
            known = all(0 <= source < len(example.passages) for source in cited)
            hypothesis = f"{example.question} {said}" if listed else said
            found.append(Statement(hypothesis, tuple(cited) if known else (), len(cited)))
        return found


def says(text: str, aliases: Sequence[str]) -> bool:
    """Whole words: of the normalized texts ("U.S." says "US"), or of those cut at every sign that is no letter or digit
    ("Paris-based" and "Paris’s" say "Paris"). A spelling that normalizes to nothing is never said."""
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
    """0 to 100: the best match of the shorter text with a stretch of the longer one, as fuzzywuzzy 0.18 looks for it.

    It tries only the stretches at which a block of the two texts' alignment begins, and rounds; `rapidfuzz` tries all
    of them, and can find a better one (78 here and 81.7 there for "I'm sorry, but I couldn't find an answer ...").
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
    """The passage's index; a number of ten digits and more has none (Python reads at most 4,300 digits)."""
    return int(digits) - 1 if len(digits) < 10 else 10**9


def _one_bracket_each(text: str) -> str:
    """ "[1, 3]" and "[1; 3]" as "[1][3]", "[1-3]" as "[1][2][3]"."""

    def spread(match: re.Match[str]) -> str:
        numbers: list[str] = []
        for part in re.split(r"[,;]", match.group(1)):
            ends = [int(digits) for digits in re.findall(r"\d{1,9}", part)]
            several = len(ends) == 2 and 0 < ends[1] - ends[0] < 20
            numbers += [str(n) for n in (range(ends[0], ends[1] + 1) if several else ends)]
        return "".join(f"[{number}]" for number in numbers)

    return re.sub(r"\[(\d+(?:\s*[,;\u2010-\u2014-]\s*\d+)+)\]", spread, text)


def _own_citations(sentences: Sequence[str]) -> list[str]:
    """The sentences with the citations that stand behind the full stop given back to the sentence before."""
    found: list[str] = []
    for sentence in sentences:
        leading = re.match(r"(?:\s*\(?\[\d+\]\)?)+", sentence)
        moved = leading.end() if leading and found else 0
        if moved:
            found[-1] += sentence[:moved]
        if sentence[moved:].strip():
            found.append(sentence[moved:])
    return found


def _kept_whole(text: str, example: Example) -> str:
    """The text with the commas taken out of accepted answers, so that they are no separators."""
    holding = {alias for aliases in example.answers for alias in aliases if "," in alias}
    for alias in sorted(holding, key=lambda alias: (-len(alias), alias)):
        whole, bare = rf"(?<!\w){re.escape(alias)}(?!\w)", alias.replace(",", "")
        text = re.sub(whole, lambda _, bare=bare: bare, text, flags=re.IGNORECASE)
    return text
