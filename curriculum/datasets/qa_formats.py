"""Question-answer pairs with passages, in four formats that are read into one.

* NQ-open-oracle: `question`, `answers` (accepted spellings of one answer) and `ctxs`, one of them the gold passage
* HotpotQA: `question`, `answer`, `context` (pairs of title and sentences) and `supporting_facts` (pairs, titles first)
* MuSiQue: `question`, `answer`, `answer_aliases` and `paragraphs` (title, paragraph_text, is_supporting)
* a log of a RAG system: `question`, `passages` (title and text, or strings) and `answer`, or `answers`

A log does not say which passage is the gold one: it is the first that holds the answer. A new format is a subclass of
`_Pair` and its entry in `FORMATS`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, Strict

from grpo.data.example import Passage
from grpo.data.files import Record, Schema, Text, parse_record, read_records, wrong_field
from grpo.data.text import contains
from grpo.errors import UserError

SPELLINGS = 'a list of accepted spellings such as ["Paris"]'
Flag = Annotated[bool, Strict(False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswer:
    """A question as a file has it."""

    number: int  # of the record in the file, from 1
    text: str
    answers: tuple[str, ...]  # accepted spellings of the one answer
    gold: tuple[Passage, ...]  # what it takes to answer; none in a log whose passages do not hold the answer
    others: tuple[Passage, ...] = ()  # the question's other passages: its first distractors
    marked: bool = False  # the file itself says that the question is unanswerable


def read_questions(path: str | Path) -> Iterator[QuestionAnswer]:
    """The questions of a file, in order; every record has the format of the first."""
    schema: type[_Pair] | None = None
    for number, (location, record) in enumerate(read_records(path), 1):
        if schema is None:
            schema = next((schema for name, schema in FORMATS.items() if record.get(name) is not None), None)
        if schema is None:
            raise UserError(
                f"{location}: no passages; expected ctxs (NQ), context (HotpotQA), paragraphs (MuSiQue) or passages"
            )
        yield parse_record(location, record, schema).read(location, number)


def read_passages(path: str | Path) -> Iterator[Passage]:
    """The passages of a file of `{"title", "text"}` records."""
    for location, record in read_records(path):
        yield parse_record(location, record, _Passage).passage


class _Passage(Schema):
    title: str | None = Field(None, description="a string")
    text: Text = Field(description="a string")

    @property
    def passage(self) -> Passage:
        return Passage(title=self.title or "", text=self.text)


class _Pair(Schema):
    question: Text = Field(description="a string")

    def read(self, location: str, number: int) -> QuestionAnswer:
        """The record in the one form; UserError at `location`."""
        raise NotImplementedError

    def _with(self, number: int, answers: Iterable[str], rows: Iterable[tuple[Passage, bool]]) -> QuestionAnswer:
        """`rows` are the passages, each with whether it is gold."""
        rows = list(rows)
        return QuestionAnswer(
            number=number,
            text=self.question,
            answers=tuple(answers),
            gold=tuple(passage for passage, gold in rows if gold),
            others=tuple(passage for passage, gold in rows if not gold),
        )


class _Context(_Passage):
    isgold: Flag | None = None


class _NQ(_Pair):
    answers: list[str] = Field(description=SPELLINGS)
    ctxs: list[_Context] = Field(description="a list of objects with title, text and isgold")

    def read(self, location: str, number: int) -> QuestionAnswer:
        gold = [row for row in self.ctxs if (len(self.ctxs) == 1 if row.isgold is None else row.isgold)]
        if len(gold) != 1:
            raise UserError(f"{location}: ctxs has {len(gold)} gold passages; expected exactly one with isgold true")
        return self._with(number, self.answers, [(gold[0].passage, True)])


class _HotpotQA(_Pair):
    answer: Text = Field(description="a string")
    context: list[Annotated[tuple[str, list[str]], Strict(False)]] = Field(
        description='a list of pairs such as ["Title", ["A sentence.", "Another."]]'
    )
    supporting_facts: list[Annotated[tuple[str, object], Strict(False)]] = Field(
        description='a list of pairs such as ["Title", 0]'
    )

    def read(self, location: str, number: int) -> QuestionAnswer:
        titles = {title for title, _ in self.supporting_facts}
        passages = [Passage(title=title, text="".join(sentences).strip()) for title, sentences in self.context]
        return self._with(number, [self.answer], [(passage, passage.title in titles) for passage in passages])


class _Paragraph(_Passage):
    text: Text = Field(alias="paragraph_text")
    is_supporting: Flag | None = None


class _MuSiQue(_Pair):
    answer: Text = Field(description="a string")
    answer_aliases: list[str] = Field([], description=SPELLINGS)
    answerable: bool = Field(True, description="true or false")
    paragraphs: list[_Paragraph] = Field(description="a list of objects with title, paragraph_text and is_supporting")

    def read(self, location: str, number: int) -> QuestionAnswer:
        rows = [(row.passage, bool(row.is_supporting)) for row in self.paragraphs]
        pair = self._with(number, [self.answer, *self.answer_aliases], rows)
        return replace(pair, marked=not self.answerable)


class _RagLog(_Pair):
    answer: Text | None = Field(None, description="a string")
    answers: list[str] | None = Field(None, description=SPELLINGS)
    passages: list[Text] | list[_Passage] = Field(
        min_length=1, description="a list of strings, or of objects with title and text"
    )

    def read(self, location: str, number: int) -> QuestionAnswer:
        answers = self.answers if self.answers is not None else [self.answer] if self.answer else None
        if answers is None:
            raise wrong_field(location, "answer", None, f"a string, or answers: {SPELLINGS}")
        passages = [Passage(title="", text=row) if isinstance(row, str) else row.passage for row in self.passages]
        first = next((n for n, passage in enumerate(passages) if contains(passage.text, tuple(answers))), None)
        return self._with(number, answers, [(passage, n == first) for n, passage in enumerate(passages)])


FORMATS: Mapping[str, type[_Pair]] = {"ctxs": _NQ, "context": _HotpotQA, "paragraphs": _MuSiQue, "passages": _RagLog}
"""The format of a file, by the field that its first record has passages in."""


def has_passages(record: Record) -> bool:
    """Whether this first record of a source is in one of the formats."""
    return any(record.get(name) is not None for name in FORMATS)
