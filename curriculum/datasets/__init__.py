"""Formats and sources of examples, one file each. `curriculum.sources` finds the one for a name.

A reader makes rows of the records of one format, `Row`, and `curriculum.builder` makes examples of rows.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from grpo.data.example import Passage, Style
from grpo.data.files import Record

Flags = tuple[bool, ...]
"""For each answer, whether a passage holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A question as a record has it: `Row(location="log.jsonl:3", question="Who led Orvale?", passages=(...), ...)`."""

    location: str
    question: str
    passages: tuple[Passage, ...]
    answers: tuple[tuple[str, ...], ...]  # per answer its accepted spellings; none if the record gives no answer
    style: Style | None = None  # None: prose, or claims where the answer is a sentence
    labels: tuple[Flags | None, ...] = ()  # what the record says of each passage; () or None: not labelled
    needed: frozenset[int] | None = None  # places of the passages that it takes to answer; None: the record is a log
    unanswerable: bool = False  # the record itself says so
    id: str | None = None
    source: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)  # the record's other fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A format: `Reader(name="squad", keys=("context", "answers.text"), read=read_squad)`."""

    name: str
    keys: tuple[str, ...]  # a record of this format has all of them; "a.b": field b of the object or list a
    read: Callable[[str, Record], Iterable[Row]]  # (location, record) -> its rows; UserError for a wrong field
    where: Callable[[Record], bool] = lambda record: True  # what the record must be beside
    variants: bool = True  # whether training also gets each question without the passages that answer it
    joins: bool = False  # whether its records lack accepted answers, which other sources may have


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """How examples are made of what a source has."""

    seed: int = 0
    passages: int | None = None  # per question; None: as many as a record has, and 3 where this program chooses them
    choose: Literal["found", "first"] = "found"  # which of a record's passages are kept; evaluation takes the first
    max_words: int | None = None  # passages are truncated to this many words
    style: Style | None = None  # for all records that state none
    format: str = ""  # name of a reader; "": the first that fits
    fields: Mapping[str, str] = field(default_factory=dict)  # our name of a field -> the file's
    refusals: tuple[str, ...] = ()  # further wordings of refusals
    judge: str = "lexical"  # labels sentences
    gold: tuple[str, ...] = ()  # sources with the accepted answers to questions of records that have none
    world_size: int = 1000  # questions about the world
    unrelated: float = 0.0  # share of the world's unanswerable questions whose passages do not mention the subject
    styles: Mapping[Style, float] | None = None  # weights of the world's styles
