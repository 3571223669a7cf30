"""Records with `docs` as Trust-Data has them and as `curriculum.build` writes them, and logs of a RAG system.

A log has `question`, `passages` and the `answer` that was given, or `answers`, the accepted spellings of one.
"""

from collections.abc import Iterator
from dataclasses import replace

from curriculum.datasets import Reader, Row
from curriculum.datasets.fields import first_field, flag_of, id_of, passages_of, rest_of, strings_of, style_of, text_of
from grpo.data.example import read_labels
from grpo.data.files import Record

UNNAMED = "unnamed"  # a source that the record does not state
QUESTIONS = ("question", "query", "user_input", "input")
GOLD = ("answers", "reference", "reference_answer", "ground_truth", "ground_truths", "gold_answer")
GIVEN = ("answer", "response", "result", "output")
"""Fields of the right answer, which go first, and of the answer that the system gave."""


def read_grounded(location: str, record: Record) -> Iterator[Row]:
    example, labels = read_labels(location, record, style="prose", source=UNNAMED)
    stated = record.get("style") or record.get("data_type")
    yield Row(
        location=location,
        question=example.question,
        passages=example.passages,
        answers=example.answers,
        style=example.style if stated or None not in labels else None,
        labels=labels,
        unanswerable=not flag_of(location, record, "answerable", True),
        id=None if record.get("id") is None else example.id,
        source=None if example.source == UNNAMED else example.source,
        extra=example.extra,
    )


def read_log(location: str, record: Record, passages: str, *, questions: tuple[str, ...] = QUESTIONS) -> Iterator[Row]:
    """The row of a record of one question, with the passages in the field of this name."""
    answer = first_field(record, (*GOLD, *GIVEN))
    spellings = strings_of(location, record, *GOLD, *GIVEN)
    yield Row(
        location=location,
        question=text_of(location, record, *questions),
        passages=passages_of(location, record, passages),
        answers=(spellings,) if spellings else (),
        style=style_of(location, record),
        unanswerable=not flag_of(location, record, "answerable", True),
        id=id_of(record),
        extra=rest_of(record, *questions, passages, answer, "answerable", "style"),
    )


def log_reader(name: str, passages: str, *others: str) -> Reader:
    """The reader of logs with their passages in this field, which have the other fields too."""
    return Reader(name=name, keys=(passages, *others), read=lambda place, record: read_log(place, record, passages))


WRITTEN = Reader(name="grounded", keys=("docs", "style"), read=read_grounded, variants=False)
DOCS = replace(WRITTEN, keys=("docs",))
CLOSED = replace(WRITTEN, keys=("style", "answers"))
