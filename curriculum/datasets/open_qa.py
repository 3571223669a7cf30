"""NQ-open-oracle, retrieved `ctxs` as DPR and FiD write them, and MS MARCO.

* NQ-open-oracle: `question`, `answers` (accepted spellings of one answer) and `ctxs` with exactly one gold passage
* DPR: the same with `ctxs` of which none is marked as gold: what a retriever found
* MS MARCO: `query`, `answers` and `passages`, of which `is_selected` marks those that people answered from
"""

from collections.abc import Iterator

from curriculum.datasets import Reader, Row
from curriculum.datasets.fields import flag_of, id_of, passages_of, rest_of, rows_of, strings_of, text_of
from curriculum.datasets.grounded import read_log
from grpo.data.files import Record
from grpo.errors import UserError


def read_ctxs(location: str, record: Record) -> Iterator[Row]:
    rows = rows_of(location, record, "ctxs")
    marks = [flag_of(f"{location}: ctxs[{n}]", row, "isgold", len(rows) == 1) for n, row in enumerate(rows)]
    if len(rows) > 1 and all(row.get("isgold") is None for row in rows):
        yield from read_log(location, record, "ctxs")
        return
    if sum(marks) != 1:
        raise UserError(f"{location}: ctxs has {sum(marks)} gold passages; expected exactly one with isgold true")
    gold = marks.index(True)
    yield Row(
        location=location,
        question=text_of(location, record, "question"),
        passages=(passages_of(location, record, "ctxs")[gold],),
        answers=(strings_of(location, record, "answers"),),
        style="prose",
        needed=frozenset({0}),
        id=id_of(record),
        extra=rest_of(record, "question", "ctxs", "answers"),
    )


def read_msmarco(location: str, record: Record) -> Iterator[Row]:
    """Rows labelled by people; "No Answer Present." is a question that the passages do not answer."""
    spellings = strings_of(location, record, "wellFormedAnswers", "answers")
    selected = [flag_of(location, row, "is_selected", False) for row in rows_of(location, record, "passages")]
    none = not spellings or spellings[0].lower().startswith("no answer present")
    yield Row(
        location=location,
        question=text_of(location, record, "query"),
        passages=passages_of(location, record, "passages"),
        answers=() if none else (spellings,),
        labels=() if none else tuple((mark,) for mark in selected),
        unanswerable=none,
        id=id_of(record),
        extra=rest_of(record, "query", "query_id", "passages", "answers", "wellFormedAnswers"),
    )


CTXS = Reader(name="ctxs", keys=("ctxs",), read=read_ctxs)
MSMARCO = Reader(name="msmarco", keys=("passages.passage_text",), read=read_msmarco)
