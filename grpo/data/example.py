"""Examples: a question with its passages, its answers, and which passage holds which answer.

A record of a file or hub data set becomes an example if it has the fields of Trust-Data (`declare-lab/Trust-Data`):

* `question`: a string;
* `answers`: one list of accepted spellings per answer. A flat list of strings is one answer with its spellings in prose
  and closed style, and one answer per string in list and claims style;
* `docs`: a list of `{"title", "text", "answers_found"}`, the last with one 0 or 1 per answer, or of strings. A missing
  `answers_found` is computed by containment, except for claims, which are entailed and not spelled;
* optional: `id` (else made from question and answers), `source`, and `style` or Trust-Data's `data_type`.

`answer`, a string, may stand for missing `answers`, and one text for one document, since a table has no lists in its
cells.
A closed-book record has `style` "closed" and no docs; `answers` `[]` then means that nobody can answer the question.
All other fields of a record are kept in `Example.extra`.
"""

import hashlib
import itertools
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, cast

from annotated_types import MaxLen, MinLen
from pydantic import Field, Strict, ValidationInfo, field_validator

from grpo.data.files import Record, Schema, Text, parse_record, read_records, source_name, wrong_field
from grpo.data.text import normalize, spelled
from grpo.errors import UserError

Style = Literal["prose", "list", "claims", "closed"]
STYLES: tuple[Style, ...] = ("prose", "list", "claims", "closed")
DATA_TYPES: Mapping[str, Style] = {"asqa": "prose", "qampari": "list", "eli5": "claims", "expertqa": "claims"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A source, `Passage(title="Ali Daei", text="Ali Daei scored 109 goals.")`; cited by its position, from 1."""

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
    answers: tuple[tuple[str, ...], ...]  # per answer its accepted spellings; several answers for lists and claims
    found: tuple[tuple[bool, ...], ...]  # found[p][a]: passage p holds answer a
    style: Style
    source: str  # data set of origin, for metrics by source: "asqa"
    extra: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)  # the record's other fields

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
        """Whether any passage holds any answer (Trust-Align, section 3); in closed style whether there is an answer."""
        if self.style == "closed":
            return bool(self.answers)
        return any(any(row) for row in self.found)

    @property
    def answerable_indices(self) -> tuple[int, ...]:
        """Indices, from 0, of the answers that some passage holds."""
        return tuple(a for a in range(len(self.answers)) if any(row[a] for row in self.found))

    def passages_with(self, answer: int) -> frozenset[int]:
        """Numbers, from 1, of the passages that hold the answer of this index, from 0."""
        return frozenset(number for number, row in enumerate(self.found, 1) if row[answer])


class _Doc(Schema):
    title: str = ""
    text: Text
    answers_found: list[Annotated[bool, Strict(False)]] | None = None


class _ClosedRecord(Schema):
    style: Style = Field(description=f"one of {', '.join(STYLES)}")  # before answers, whose reading depends on it
    source: Text
    id: Text | int | None = Field(None, description="a string, a whole number, or no id")
    question: Text = Field(description="a string")
    answers: list[Annotated[list[str], MinLen(1)]] = Field(
        description='a list of lists of spellings such as [["Paris", "City of Paris"]]'
    )
    docs: Annotated[list[object], MaxLen(0)] = Field([], description="no docs in closed style")

    @field_validator("answers", mode="before")
    @classmethod
    def _nest_flat_list(cls, value: object, info: ValidationInfo) -> object:
        rows = cast(list[object], value) if isinstance(value, list) else []
        if not rows or not all(isinstance(row, str) for row in rows):
            return value
        return [rows] if info.data.get("style") in ("prose", "closed") else [[row] for row in rows]


class _GroundedRecord(_ClosedRecord):
    docs: Annotated[list[_Doc], MinLen(1)] = Field(
        description="a list of objects with title, text and answers_found, which has one 0 or 1 per answer; a question "
        "without documents has style closed"
    )


KNOWN = {*_GroundedRecord.model_fields, "data_type"}
Flags = tuple[bool, ...]


def load_examples(source: str | Path, *, style: Style = "prose") -> list[Example]:
    """The examples of a source of `grpo.data.files.read_records`.

    `style` is for records that state neither `style` nor `data_type`. Ids are unique within the result: a given id that
    comes twice is a `UserError`; a made id gets `-2`, `-3` in order, as Trust-Data repeats questions with other docs.
    """
    seen, examples = dict[str, str](), list[Example]()
    for location, record in read_records(source):
        example = read_example(location, record, style=style, source=source_name(source))
        if record.get("id") is None:
            example = with_unique_id(example, seen)
        elif example.id in seen:
            raise UserError(f"{location}: id {example.id!r} is taken by {seen[example.id]}; expected another id")
        seen[example.id] = location
        examples.append(example)
    return examples


def read_example(location: str, record: Record, *, style: Style, source: str, blank_answers: bool = False) -> Example:
    """The example in one record; `style` and `source` are for a record that states none.

    Answers that all normalize to nothing cannot be learned and are refused, unless `blank_answers`: predictions that
    are only scored may have them. UserError for claims without `answers_found`.
    """
    example, given = read_labels(location, record, style=style, source=source, blank_answers=blank_answers)
    if example.style == "claims" and None in given:  # containment finds no claim: all would be taught as refusals
        place = f"{location}: docs[{given.index(None)}]"
        raise wrong_field(place, "answers_found", None, "1 per claim that the text entails, else 0")
    found = (
        spelled(passage.text, example.answers) if row is None else row
        for passage, row in zip(example.passages, given, strict=True)
    )
    return replace(example, found=tuple(found))


def read_labels(
    location: str, record: Record, *, style: Style, source: str, blank_answers: bool = False
) -> tuple[Example, tuple[Flags | None, ...]]:
    """The example in one record, nothing found in it yet, and the `answers_found` of each passage, None if missing."""
    kind = record.get("data_type")
    if kind is not None:
        if str(kind).lower() not in DATA_TYPES:
            raise wrong_field(location, "data_type", kind, f"one of {', '.join(DATA_TYPES)}")
        style, source = DATA_TYPES[str(kind).lower()], str(kind).lower()
    schema = _ClosedRecord if (record.get("style") or style) == "closed" else _GroundedRecord
    row = parse_record(location, _usual_form(record), schema, record, style=style, source=source)
    docs = row.docs if isinstance(row, _GroundedRecord) else []
    if not row.answers and any(doc.answers_found != [] for doc in docs):
        raise wrong_field(location, "answers", [], "an answer, or answers_found [] in all docs", record)
    if row.answers and not blank_answers and not any(normalize(alias) for aliases in row.answers for alias in aliases):
        raise UserError(f"{location}: answers are only punctuation and articles; expected another word or digit")
    answers = tuple(map(tuple, row.answers))
    known = {*KNOWN, "answer"} if record.get("answers") is None else KNOWN
    example = Example(
        id=make_id(row.source, row.question, answers) if row.id is None else str(row.id),
        question=row.question,
        passages=tuple(Passage(title=doc.title, text=doc.text) for doc in docs),
        answers=answers,
        found=((False,) * len(answers),) * len(docs),
        style=row.style,
        source=row.source,
        extra={name: value for name, value in record.items() if name not in known},
    )
    return example, tuple(_flags(f"{location}: docs[{n}]", doc, len(answers)) for n, doc in enumerate(docs))


def make_id(source: str, question: str, answers: Sequence[Sequence[str]]) -> str:
    """An id of the content, "asqa-868f90cd8d24": the same in every file and order."""
    digest = hashlib.sha256(json.dumps([question, answers], ensure_ascii=False).encode()).hexdigest()
    return f"{source}-{digest[:12]}"


def _usual_form(record: Record) -> Record:
    """The record with `answer` as `answers`, and with docs that are texts as objects with a text."""
    usual = {**record, "style": record.get("style") or None}  # an empty cell of a table is none
    answers = record.get("answers")
    if isinstance(answers := record.get("answer") if answers is None else answers, str):
        usual["answers"] = [answers]
    docs = record.get("docs")
    if isinstance(docs, list | str):
        rows = [docs] if isinstance(docs, str) else cast(list[object], docs)
        usual["docs"] = [_usual_doc(doc) for doc in rows]
    return usual


def _usual_doc(doc: object) -> object:
    if isinstance(doc, Mapping):
        row = cast(Mapping[str, object], doc)
        flags = row.get("answers_found")
        row = {name: value for name, value in row.items() if name != "title" or value is not None}
        return {**row, "answers_found": [flags]} if isinstance(flags, bool) else row
    return {"text": doc} if isinstance(doc, str) else doc


def _flags(location: str, doc: _Doc, answers: int) -> Flags | None:
    if doc.answers_found is not None and len(doc.answers_found) != answers:
        raise UserError(
            f"{location}: answers_found has {len(doc.answers_found)} entries; "
            f"expected {answers} of 0 or 1, one per answer"
        )
    return None if doc.answers_found is None else tuple(doc.answers_found)


def to_record(example: Example) -> dict[str, object]:
    """The record of an example, which `read_example` reads back."""
    docs = [
        {"title": passage.title, "text": passage.text, "answers_found": [int(flag) for flag in row]}
        for passage, row in zip(example.passages, example.found, strict=True)
    ]
    return {
        **example.extra,
        "id": example.id,
        "question": example.question,
        "answers": [list(spellings) for spellings in example.answers],
        "docs": docs,
        "style": example.style,
        "source": example.source,
    }


def with_unique_id(example: Example, seen: Container[str]) -> Example:
    """The example, with -2, -3 and so on behind its id if that is taken."""
    copies = (f"{example.id}-{copy}" for copy in itertools.count(2))
    return replace(example, id=next(key for key in itertools.chain([example.id], copies) if key not in seen))


def train_heldout_split(
    examples: Iterable[Example], *, held_out: float = 0.1, salt: str = "held-out"
) -> tuple[list[Example], list[Example]]:
    """(training, held-out) examples, each in the given order.

    The sha256 of the salt and the normalized question decides. All variants and copies of a question are thus on one
    side, and a question keeps its side when examples are added, dropped or reordered. `held_out` is the expected share.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"held_out = {held_out} is no share; expected 0 <= held_out < 1")
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        key = normalize(example.question) or example.question
        digest = hashlib.sha256(f"{salt}\n{key}".encode()).digest()
        sides[int.from_bytes(digest[:8]) < held_out * 2**64].append(example)
    return sides
