"""Labels: which passage holds which answer. Short answers are looked up, sentences are asked of a judge.

A log's own refusals are questions that its passages do not answer. An answer that no passage supports is no such
question: the row is dropped (`curriculum.builder`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from curriculum.datasets import Flags, Row
from curriculum.retrieval import shown_text
from grpo.data.example import Passage, Style
from grpo.data.sentences import sentences, statements
from grpo.data.text import STOP_WORDS, contains, normalize, spelled, strip_citations, words
from rewards.judges.base import ENTAILMENT_THRESHOLD, Judge, Pair, ask, premise

MIN_SENTENCE = 4  # words: "It was Tove Arden." is a sentence, "Dr. Moss Jr." is a name
MAX_SPAN = 12  # words; a longer answer is a sentence with or without a stop
MAX_REFUSAL = 2  # sentences; a refusal that goes on longer also says something

_STOPS = (".", "!", "?", "\u3002", "\uff01", "\uff1f")
_DOCUMENTS = (
    r"(?:documents|passages|contexts?|sources|(?:search |retrieved )?results|"
    r"(?:provided|given|available|retrieved|supplied|above) "
    r"(?:documents?|passages?|texts?|articles?|excerpts?|information))"
)
_CANNOT = (
    r"(?:do not|don't|could not|couldn't|can ?not|can't|did not|didn't|(?:am |are |was |were )?(?:unable|not able) to)"
)
_REFUSALS = re.compile(
    "|".join(
        (
            r"\b(?:i|we)(?: am| are|'m|'re)? (?:sorry|afraid)\b",
            r"\b(?:sorry|i apologi[sz]e)\b",
            rf"\b(?:i|we)(?:'m|'re)? {_CANNOT} "
            r"(?:find|know|answer|locate|determine|see|have|identify|say|provide|tell)\b",
            rf"\b{_DOCUMENTS}\b[^.]{{0,40}}\b(?:do not|does not|don't|doesn't|did not|didn't) (?:\w+ )?"
            r"(?:contain|mention|provide|include|answer|say|specify|state|have|give|address|discuss|cover)\b",
            r"\b(?:no|not enough|insufficient) (?:\w+ )?(?:information|answer|mention|evidence|data|details)\b"
            rf"[^.]{{0,60}}\b(?:found|available|given|provided|{_DOCUMENTS})",
            r"\bnot (?:\w+ )?(?:mentioned|specified|stated|provided|available|found|given|answered|contained|covered)\b"
            rf"[^.]{{0,30}}\b{_DOCUMENTS}",
            r"^(?:unknown|unanswerable|n/?a|no answer(?: present| found)?|insufficient (?:information|context)"
            r"|not (?:found|answerable|available|enough information)|none of the (?:above|documents))$",
        )
    ),
    re.IGNORECASE,
)


def is_refusal(answer: str, wordings: Iterable[str] = ()) -> bool:
    """Whether an answer of a log says that it has none: in one of many English wordings, or in one of `wordings`.

    >>> is_refusal("I could not find this in the documents."), is_refusal("He could not find the treasure.")
    (True, False)
    """
    plain = strip_citations(answer).replace("\u2019", "'").strip()
    if any(wording.casefold() in plain.casefold() for wording in wordings):
        return True
    parts = sentences(plain)
    return 0 < len(parts) <= MAX_REFUSAL and _REFUSALS.search(parts[0].rstrip(".!")) is not None


def is_sentence(answer: str) -> bool:
    """Whether an answer is a statement that a passage entails, and not a name or number that it spells.

    >>> is_sentence("Tove Arden"), is_sentence("It was built by Tove Arden [1].")
    (False, True)
    """
    plain = strip_citations(answer)
    count = len(plain.split()) + len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]", plain)) // 2
    return count > MAX_SPAN or (count >= MIN_SENTENCE and plain.rstrip("\"')\u201d\u2019").endswith(_STOPS))


def claims_of(answer: str) -> tuple[str, ...]:
    """The statements of an answer, each without its citations."""
    plain = (strip_citations(sentence) for sentence in sentences(answer))
    return tuple(dict.fromkeys(claim for claim in plain if normalize(claim)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A usable row, with its passages whole and as the model will see them."""

    row: Row
    number: int  # of the row, from 1
    refused: bool  # the answer is a log's refusal, which is none once the passages do not hold it
    answers: tuple[tuple[str, ...], ...]
    style: Style
    whole: tuple[Passage, ...]
    shown: tuple[Passage, ...]
    needed: frozenset[int] | None  # places of the passages that it takes to answer; None: a record's own passages
    labels: tuple[Flags | None, ...]  # of the file
    found: tuple[Flags, ...] = ()  # found[p][a]: passage p holds answer a

    @property
    def supported(self) -> bool:
        """Whether any passage holds any answer."""
        return any(map(any, self.found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A judge's labels beside those of the file: numbers of pairs of passage and answer that have both."""

    both: int
    judge_only: int
    file_only: int
    neither: int

    def __str__(self) -> str:
        total = self.both + self.judge_only + self.file_only + self.neither
        if not total:
            return "agreement    the file has no labels to compare with"
        return (
            f"agreement    {100 * (self.both + self.neither) / total:.1f} % of {total} labels\n"
            "                       judge: held   judge: not held\n"
            f"             file: held        {self.both:6}            {self.file_only:6}\n"
            f"             file: not held    {self.judge_only:6}            {self.neither:6}"
        )


def label(questions: Sequence[Question], judge: Judge, *, relabel: bool) -> list[Question]:
    """The questions with `found`: as their file says, else looked up in the passages, for claims asked of the judge.

    With `relabel` the judge decides on all answers; one that is no claim must be spelled as well.
    """
    verdicts = ask(judge, (pair for question in questions for *_, pair in _pairs(question, relabel=relabel)))
    made: list[Question] = []
    for question in questions:
        found = [
            list(spelled(passage.text, question.answers) if given is None or relabel else given)
            for passage, given in zip(question.shown, question.labels, strict=True)
        ]
        for place, answer, pair in _pairs(question, relabel=relabel):
            found[place][answer] = verdicts[pair] > ENTAILMENT_THRESHOLD
        made.append(replace(question, found=tuple(map(tuple, found))))
    return made


def compare(questions: Iterable[Question]) -> Agreement:
    """The labels that were made beside those of the file."""
    counts = Counter(
        (there, made)
        for question in questions
        for given, row in zip(question.labels, question.found, strict=True)
        for there, made in zip(given or (), row if given else (), strict=True)
    )
    return Agreement(
        both=counts[True, True],
        judge_only=counts[False, True],
        file_only=counts[True, False],
        neither=counts[False, False],
    )


def free_of(candidates: Sequence[tuple[Question, Passage]], judge: Judge) -> list[bool]:
    """For each question and passage of another one, whether the passage holds none of the answers.

    A title counts as text. A claim counts as held if the judge says so or cannot tell (at the threshold), or if more
    than half of its words are there.
    """
    asked = [
        [claim_pair(passage, answer) for answer in question.answers] if question.style == "claims" else []
        for question, passage in candidates
    ]
    verdicts = ask(judge, (pair for pairs in asked for pair in pairs))
    return [
        not any(verdicts[pair] >= ENTAILMENT_THRESHOLD for pair in pairs) and not _mentions(question, passage)
        for (question, passage), pairs in zip(candidates, asked, strict=True)
    ]


def _mentions(question: Question, passage: Passage) -> bool:
    text = shown_text(passage)
    if question.style != "claims":
        return any(spelled(text, question.answers))
    there = {*words(text).split()}
    claims = ({*words(spellings[0]).split()} - STOP_WORDS for spellings in question.answers)
    return any(len(claim & there) > len(claim) / 2 for claim in claims)


def _pairs(question: Question, *, relabel: bool) -> Iterator[tuple[int, int, Pair]]:
    """(place of the passage, index of the answer, pair) of all that the judge is asked about a question."""
    for place, (passage, given) in enumerate(zip(question.shown, question.labels, strict=True)):
        if given is not None and not relabel:
            continue
        for index, spellings in enumerate(question.answers):
            if question.style == "claims":
                yield place, index, claim_pair(passage, spellings)
            elif relabel and contains(passage.text, spellings):
                yield place, index, answer_pair(question.row.question, passage, spellings)


def items_of(answer: str) -> tuple[str, ...]:
    """The items of a list answer, each without its citations. An item that is cited may have a comma.

    >>> items_of("Orvale, the old town [1], Varn [2]."), items_of("Orvale, Varn")
    (('Orvale, the old town', 'Varn'), ('Orvale', 'Varn'))
    """
    cited = re.split(r"(?<=\])\s*[,;]\s*", answer)
    parts = cited if len(cited) > 1 else [item for item, _ in statements(answer, listed=True)[0]]
    items = (strip_citations(part).strip(" .\n") for part in parts)
    return tuple(dict.fromkeys(item for item in items if normalize(item)))


def claim_pair(passage: Passage, spellings: tuple[str, ...]) -> Pair:
    """What the judge is asked about a claim."""
    return premise([passage]), spellings[0]


def answer_pair(question: str, passage: Passage, spellings: tuple[str, ...]) -> Pair:
    """What the judge is asked about an answer that is spelled: the question with it (Trust-Align, appendix B).

    The question stands in the premise too, so that its own words are not asked of the passage.
    """
    return f"{question}\n{premise([passage])}", f"{question} {spellings[0]}"
