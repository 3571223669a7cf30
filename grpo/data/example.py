"""Grounded examples from local files and from the hub, and their split into training and held-out questions.

A record has the shape of Trust-Data (`declare-lab/Trust-Data`):

* `question`: a string;
* `answers`: a list with one list of accepted spellings per answer. A flat list of strings is one answer with its
  spellings in prose style (as in NQ), and one answer per string in list and claims style;
* `docs`: a list of `{"title", "text", "answers_found"}`, the last with one 0 or 1 per answer; where it is missing it is
  computed by normalized containment (not for claims, which are entailed rather than spelled);
* optional `id` (made from question and answers where missing), `source`, and `style` or Trust-Data's `data_type`.

A closed-book record has `style` "closed" and no docs; its `answers` may be `[]`, which is a question that nobody can
answer. A field that is `null` counts as missing, since the columns of a hub data set are filled up with it. Every
complaint is an `UserError` of one line: where, which field, what is wrong, and what would be valid.
"""

import hashlib
import itertools
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from grpo.data.files import SUFFIXES, file_rows
from grpo.data.text import contains, normalize
from grpo.errors import UserError

Style = Literal["prose", "list", "claims", "closed"]
STYLES: tuple[Style, ...] = ("prose", "list", "claims", "closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A source, `Passage(title="Ali Daei", text="Ali Daei scored 109 goals.")`; its number is its place, from 1."""

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question with the passages it may be answered from.

    >>> daei = Passage(title="Ali Daei", text="Ali Daei scored 109 goals.")
    >>> Example(id="q1", question="How many goals did Daei score?", passages=(daei,), answers=(("109", "109 goals"),),
    ...         found=((True,),), style="prose", source="asqa").answerable
    True
    """

    id: str  # unique within its source: "asqa-17"
    question: str
    passages: tuple[Passage, ...]
    answers: tuple[
        tuple[str, ...], ...
    ]  # one tuple of accepted spellings per answer; several answers for lists and claims
    found: tuple[tuple[bool, ...], ...]  # found[p][a]: passage p holds answer a
    style: Style
    source: str  # data set of origin, for metrics by source: "asqa"

    def __post_init__(self) -> None:
        if len(self.found) != len(self.passages):
            raise UserError(f"example {self.id}: found has {len(self.found)} rows for {len(self.passages)} passages")
        for number, row in enumerate(self.found, 1):
            if len(row) != len(self.answers):
                raise UserError(
                    f"example {self.id}: found row {number} has {len(row)} flags for {len(self.answers)} answers"
                )

    @property
    def answerable(self) -> bool:
        """Whether any passage holds any answer (Trust-Align, section 3); a closed-book question with answers is."""
        if self.style == "closed":
            return bool(self.answers)
        return any(any(row) for row in self.found)

    @property
    def answerable_indices(self) -> tuple[int, ...]:
        """Indices, from 0, of the answers that some passage holds."""
        return tuple(a for a in range(len(self.answers)) if any(row[a] for row in self.found))

    def passages_with(self, answer: int) -> frozenset[int]:
        """Numbers, from 1, of the passages that hold answer `answer` (an index from 0)."""
        return frozenset(number for number, row in enumerate(self.found, 1) if row[answer])


Record = Mapping[str, object]
Shape = Literal["grounded", "question_answer", "closed_book"]

__all__ = [
    "SUFFIXES",
    "Record",
    "detect_format",
    "load_examples",
    "read_example",
    "read_records",
    "text_field",
    "train_heldout_split",
]

HUB = "hub:"
PASSAGES_OF_PAIRS = {"ctxs", "context", "paragraphs", "passages"}  # see curriculum.datasets.qa_formats
CLOSED_BOOK = {
    "problem",
    "possible_answers",
    "answerable",
    "golden_answer",
    "Answer",
}  # see curriculum.datasets.closed_book
DATA_TYPES: Mapping[str, Style] = {"asqa": "prose", "qampari": "list", "eli5": "claims", "expertqa": "claims"}
_FIELDS = "question, answers and docs"
_ANSWERS = 'a list of lists of spellings such as [["Paris", "City of Paris"]]'


def load_examples(source: str | Path, *, style: Style = "prose") -> list[Example]:
    """The examples of a local file (`SUFFIXES`), or of `hub:NAME`, `hub:NAME:SPLIT` or `hub:NAME:CONFIG/SPLIT`.

    `style` is for records that state neither `style` nor `data_type`. Ids are unique within the result: a given id that
    comes twice is an `UserError`; a made one gets `-2`, `-3` in order (Trust-Data repeats questions with other docs).
    """
    seen, examples = dict[str, str](), list[Example]()
    for place, record in read_records(source):
        example = read_example(place, record, style=style, source=source_name(source))
        if record.get("id") is None:
            example = with_unique_id(example, seen)
        elif example.id in seen:
            raise _wrong(place, "id", f"{example.id!r} is taken by {seen[example.id]}", "another id in each record")
        seen[example.id] = place
        examples.append(example)
    return examples


def detect_format(source: str | Path) -> Shape:
    """What reads the records, by the first of them: `load_examples` ("grounded"), `curriculum.build`
    ("question_answer") or `curriculum.datasets.closed_book`."""
    place, record = next(read_records(source))
    there = {name for name, value in record.items() if value is not None}
    if "docs" in there or record.get("style") == "closed":
        return "grounded"
    if there & PASSAGES_OF_PAIRS:
        return "question_answer"
    if there & CLOSED_BOOK or isinstance(record.get("answer"), Mapping):
        return "closed_book"
    if str(source).startswith(HUB):
        return "grounded"  # `load_examples` says what is missing
    valid = "docs (grounded), or ctxs (question, answers, gold passage), or the fields of a closed-book data set"
    raise _wrong(place, "docs", "is missing", valid)


def read_records(source: str | Path) -> Iterator[tuple[str, Record]]:
    """Every record with its place as messages name it: `data.jsonl:3`, or `data.json, record 3`; never without any."""
    rows = _hub_rows(str(source)) if str(source).startswith(HUB) else file_rows(Path(source))
    empty = True
    for place, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{place}: a record is {type(row).__name__}; expected an object with {_FIELDS}")
        empty = False
        yield place, cast(Record, row)
    if empty:
        raise UserError(f"{source}: holds no records; expected at least one with {_FIELDS}")


def train_heldout_split(
    examples: Iterable[Example], *, held_out: float = 0.1, salt: str = "held-out"
) -> tuple[list[Example], list[Example]]:
    """(training, held-out) examples, each in the given order.

    The side is decided by the sha256 of the salt and the normalized question, which is what identifies a question: all
    forms and all copies of it, from whichever file and with whichever id, land on one side, and a question keeps its
    side when examples are added, dropped or reordered. `held_out` is thus the expected share, hit exactly only by luck.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"held_out = {held_out} is no share; expected 0 <= held_out < 1")
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        key = normalize(example.question) or example.question
        digest = hashlib.sha256(f"{salt}\n{key}".encode()).digest()
        sides[int.from_bytes(digest[:8]) < held_out * 2**64].append(example)
    return sides


def _hub_rows(source: str) -> Iterator[tuple[str, object]]:
    name, _, rest = source.removeprefix(HUB).partition(":")
    config, _, part = rest.rpartition("/")
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise UserError(f"{source}: needs the datasets package; install it, or give a local file") from error
    try:
        rows = datasets.load_dataset(name, config or None, split=part or "train")
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: {reason}; expected hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIG/SPLIT") from error
    for number, row in enumerate(cast(Iterable[object], rows), 1):
        yield f"{source}, record {number}", row


def read_example(place: str, record: Record, *, style: Style, source: str, blank_answers: bool = False) -> Example:
    """The example in one record; `style` and `source` are for a record that states none of its own.

    Answers that all normalize to nothing cannot be learned and are refused, unless `blank_answers`: a file that only
    has to be scored is taken as it is.
    """
    if "ctxs" in record and record.get("docs") is None:
        raise _wrong(place, "docs", "is missing but ctxs is there", "docs (ctxs are for curriculum.build)")
    question = text_field(place, record, "question")
    style, source = _style(place, record, style, source)
    docs = _docs(place, record, style)
    labelled = all(doc.get("answers_found") == [] for doc in docs)  # a closed question has no docs
    answers = _answers(place, record, style, empty_allowed=labelled)
    if answers and not blank_answers and not any(normalize(alias) for aliases in answers for alias in aliases):
        raise _wrong(place, "answers", "are only punctuation and articles", "one with another word or digit")
    passages, found = list[Passage](), list[tuple[bool, ...]]()
    for n, doc in enumerate(docs):
        where = f"{place}: docs[{n}]"
        title = text_field(where, doc, "title", empty=True)
        passages.append(Passage(title=title, text=text_field(where, doc, "text")))
        found.append(_flags(where, doc, passages[-1].text, answers, style))
    given = record.get("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int) or given == ""):
        raise _wrong(place, "id", f"is {given!r}", "a string, a whole number or no id")
    digest = hashlib.sha256(json.dumps([question, answers], ensure_ascii=False).encode()).hexdigest()
    key = f"{source}-{digest[:12]}" if given is None else str(given)
    return Example(
        id=key,
        question=question,
        passages=tuple(passages),
        answers=answers,
        found=tuple(found),
        style=style,
        source=source,
    )


def _style(place: str, record: Record, style: Style, source: str) -> tuple[Style, str]:
    kind = record.get("data_type")
    if kind is not None:
        if not isinstance(kind, str) or kind.lower() not in DATA_TYPES:
            raise _wrong(place, "data_type", f"is {kind!r}", f"one of {', '.join(DATA_TYPES)}")
        style, source = DATA_TYPES[kind.lower()], kind.lower()
    if record.get("style") is not None:
        if record["style"] not in STYLES:
            raise _wrong(place, "style", f"is {record['style']!r}", f"one of {', '.join(STYLES)}")
        style = cast(Style, record["style"])
    if record.get("source") is not None:
        source = text_field(place, record, "source")
    return style, source


def _answers(place: str, record: Record, style: Style, *, empty_allowed: bool) -> tuple[tuple[str, ...], ...]:
    value = record.get("answers")
    if not isinstance(value, list):
        raise _wrong(place, "answers", _state(value), _ANSWERS)
    rows = cast(list[object], value)
    if not rows and not empty_allowed:
        raise _wrong(place, "answers", "is empty", f"{_ANSWERS} (or answers_found [] in all docs)")
    if rows and all(isinstance(row, str) for row in rows):
        rows = [rows] if style in ("prose", "closed") else [[row] for row in rows]
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not row or not all(isinstance(alias, str) for alias in cast(list[object], row)):
            raise _wrong(place, f"answers[{number}]", f"is {row!r:.60}", _ANSWERS)
    return tuple(tuple(row) for row in cast(list[list[str]], rows))


def _docs(place: str, record: Record, style: Style) -> list[Record]:
    value = record.get("docs")
    if style == "closed":
        if value:
            raise _wrong(place, "docs", "is given in closed style", f"no docs, or a style of {', '.join(STYLES[:-1])}")
        return []
    valid = "a list of objects with title, text and answers_found"
    if not isinstance(value, list) or not value:
        raise _wrong(place, "docs", "is empty" if value == [] else _state(value), valid)
    for number, doc in enumerate(cast(list[object], value)):
        if not isinstance(doc, Mapping):
            raise _wrong(place, f"docs[{number}]", _state(doc), valid)
    return cast(list[Record], value)


def _flags(place: str, doc: Record, text: str, answers: Sequence[tuple[str, ...]], style: Style) -> tuple[bool, ...]:
    value = doc.get("answers_found")
    if value is None:
        if style == "claims":
            # containment finds no sentence-long claim, so each question would silently become one to refuse
            raise _wrong(place, "answers_found", "is missing", "1 per claim that the text entails, else 0")
        return tuple(contains(text, aliases) for aliases in answers)
    valid = f"{len(answers)} of 0 or 1, one per answer"
    if not isinstance(value, list):
        raise _wrong(place, "answers_found", _state(value), valid)
    flags = cast(list[object], value)
    if len(flags) != len(answers):
        raise _wrong(place, "answers_found", f"has {len(flags)} entries", valid)
    if not all(flag in (0, 1) for flag in flags):
        raise _wrong(place, "answers_found", f"is {flags!r:.60}", valid)
    return tuple(flag == 1 for flag in flags)


def text_field(place: str, record: Record, field: str, *, empty: bool = False) -> str:
    """The string in `record[field]`; a missing, blank (unless `empty`) or other value is an `UserError` at `place`."""
    value = record.get(field)
    if not isinstance(value, str):
        raise _wrong(place, field, _state(value), "a string")
    if not empty and not value.strip():
        raise _wrong(place, field, "is empty", "a string with text")
    return value


def with_unique_id(example: Example, seen: Container[str]) -> Example:
    """The example, with -2, -3 and so on behind its id where that is taken."""
    copies = (f"{example.id}-{copy}" for copy in itertools.count(2))
    return replace(example, id=next(key for key in itertools.chain([example.id], copies) if key not in seen))


def source_name(source: str | Path) -> str:
    """What a source is called where its records do not say: `hub:NAME` is NAME, `data/musique.jsonl.gz` "musique"."""
    text = str(source)
    return text.removeprefix(HUB) if text.startswith(HUB) else Path(text).name.partition(".")[0]


def _state(value: object) -> str:
    return "is missing" if value is None else f"is {type(value).__name__}"


def _wrong(place: str, field: str, problem: str, valid: str) -> UserError:
    return UserError(f"{place}: {field} {problem}; expected {valid}")
