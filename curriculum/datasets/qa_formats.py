"""What was asked, and which passages came with it? Question-answer files in four shapes, read into one.

* NQ-open-oracle: `question`, `answers` (accepted spellings of one answer) and `ctxs`, one of them the gold passage
* HotpotQA: `question`, `answer`, `context` (pairs of title and sentences) and `supporting_facts` (pairs, titles first)
* MuSiQue: `question`, `answer`, `answer_aliases` and `paragraphs` (title, paragraph_text, is_supporting)
* a log of a RAG system: `question`, `passages` (title and text, or strings) and `answer`, or `answers`

In a log nothing says which passage is the gold one: it is the first that holds the answer. Every complaint is an
`UserError` of one line: where, which field, and what would be valid.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from grpo.data.example import Passage, Record, read_records, text_field
from grpo.data.text import contains
from grpo.errors import UserError

SPELLINGS = 'a list of accepted spellings such as ["Paris"]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question as a file has it."""

    number: int  # of the record in the file, from 1
    text: str
    answers: tuple[str, ...]  # accepted spellings of the one answer
    gold: tuple[Passage, ...]  # what it takes to answer; none in a log whose passages do not hold the answer
    others: tuple[Passage, ...] = ()  # that came with the question: its first distractors
    marked: bool = False  # said to be unanswerable by the file itself


def read_questions(path: str | Path) -> Iterator[Asked]:
    """The questions of a file, in order; every record has the shape of the first."""
    read: Callable[[int, str, Record], Asked] | None = None
    for number, (place, record) in enumerate(read_records(path), 1):
        if read is None:
            field = next((name for name in SHAPES if name in record), None)
            if field is None:
                raise UserError(
                    f"{place}: no passages; expected ctxs (NQ), context (HotpotQA), paragraphs (MuSiQue) or passages"
                )
            read = SHAPES[field]
        yield read(number, place, record)


def read_pool(path: str | Path) -> Iterator[Passage]:
    """The passages of a file of `{"title", "text"}` records."""
    for place, record in read_records(path):
        yield _passage(place, record)


def _nq(number: int, place: str, record: Record) -> Asked:
    question = text_field(place, record, "question")
    answers = _strings(place, record, "answers", SPELLINGS)
    rows = _objects(place, record, "ctxs", "title, text and isgold")
    gold = [row for row in rows if row.get("isgold", len(rows) == 1)]
    if len(gold) != 1:
        raise UserError(f"{place}: ctxs has {len(gold)} gold passages; expected exactly one with isgold true")
    return Asked(number=number, text=question, answers=answers, gold=(_passage(f"{place}: ctxs", gold[0]),))


def _hotpot(number: int, place: str, record: Record) -> Asked:
    question, answer = text_field(place, record, "question"), text_field(place, record, "answer")
    valid = 'a list of pairs such as ["Title", ["A sentence.", "Another."]]'
    passages = []
    for title, sentences in _pairs(place, record, "context", valid):
        if not isinstance(sentences, list) or not all(isinstance(s, str) for s in cast(list[object], sentences)):
            raise UserError(f"{place}: context has {sentences!r:.60}; expected {valid}")
        passages.append(Passage(title=title, text="".join(cast(list[str], sentences)).strip()))
    titles = {title for title, _ in _pairs(place, record, "supporting_facts", 'a list of pairs such as ["Title", 0]')}
    return Asked(
        number=number,
        text=question,
        answers=(answer,),
        gold=tuple(p for p in passages if p.title in titles),
        others=tuple(p for p in passages if p.title not in titles),
    )


def _musique(number: int, place: str, record: Record) -> Asked:
    question, answer = text_field(place, record, "question"), text_field(place, record, "answer")
    aliases = _strings(place, record, "answer_aliases", SPELLINGS) if record.get("answer_aliases") is not None else ()
    gold, others = [], []
    for row in _objects(place, record, "paragraphs", "title, paragraph_text and is_supporting"):
        passage = _passage(f"{place}: paragraphs", row, text="paragraph_text")
        (gold if row.get("is_supporting") else others).append(passage)
    return Asked(
        number=number,
        text=question,
        answers=(answer, *aliases),
        gold=tuple(gold),
        others=tuple(others),
        marked=record.get("answerable") is False,
    )


def _log(number: int, place: str, record: Record) -> Asked:
    question = text_field(place, record, "question")
    if record.get("answers") is None:
        answers = (text_field(place, record, "answer"),)
    else:
        answers = _strings(place, record, "answers", SPELLINGS)
    value = record.get("passages")
    if not isinstance(value, list) or not value:
        raise UserError(f"{place}: passages is {value!r:.60}; expected a list of strings, or of title and text")
    if all(isinstance(row, str) and row.strip() for row in cast(list[object], value)):
        passages = [Passage(title="", text=text) for text in cast(list[str], value)]
    else:
        passages = [_passage(f"{place}: passages", row) for row in _objects(place, record, "passages", "title, text")]
    first = next((n for n, passage in enumerate(passages) if contains(passage.text, answers)), len(passages))
    return Asked(
        number=number,
        text=question,
        answers=answers,
        gold=tuple(passages[first : first + 1]),
        others=tuple(passages[:first] + passages[first + 1 :]),
    )


SHAPES: Mapping[str, Callable[[int, str, Record], Asked]] = {
    "ctxs": _nq,
    "context": _hotpot,
    "paragraphs": _musique,
    "passages": _log,
}
"""How a file is read, by the field that its first record has passages in."""


def _passage(place: str, row: Record, *, text: str = "text") -> Passage:
    title = text_field(place, row, "title", empty=True) if row.get("title") is not None else ""
    return Passage(title=title, text=text_field(place, row, text))


def _strings(place: str, record: Record, field: str, valid: str) -> tuple[str, ...]:
    value = record.get(field)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast(list[object], value)):
        raise UserError(f"{place}: {field} is {value!r:.60}; expected {valid}")
    return tuple(cast(list[str], value))


def _objects(place: str, record: Record, field: str, keys: str) -> list[Record]:
    value = record.get(field)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in cast(list[object], value)):
        raise UserError(f"{place}: {field} is {value!r:.60}; expected a list of objects with {keys}")
    return cast(list[Record], value)


def _pairs(place: str, record: Record, field: str, valid: str) -> list[tuple[str, object]]:
    value = record.get(field)
    rows = cast(list[object], value) if isinstance(value, list) else [None]
    for row in rows:
        if not isinstance(row, list) or len(cast(list[object], row)) != 2 or not isinstance(row[0], str):
            raise UserError(f"{place}: {field} is {value!r:.60}; expected {valid}")
    return [(row[0], row[1]) for row in cast(list[list[str]], rows)]
