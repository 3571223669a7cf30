"""ASQA, QAMPARI and ELI5 as ALCE ships them, with retrieved `docs`; results of its `run.py`; files of trust_eval.

ASQA has an answer per sub-question (`qa_pairs`), ELI5 has `claims`, QAMPARI has a list of spellings per item. The files
of trust_eval are these with 100 documents and `answers_found`. ALCE's QAMPARI looks like any record with `docs`: it is
known by several answers and the retriever's `id` and `score` in `docs`, or by the name of the file
(`curriculum.sources`). A style that the record or the recipe states holds.
"""

from collections.abc import Iterator

from curriculum.datasets import Reader, Row
from curriculum.datasets.fields import id_of, passages_of, rest_of, rows_of, strings_of, text_of
from curriculum.datasets.grounded import read_grounded
from grpo.data.example import Style
from grpo.data.files import Record


def read_asqa(location: str, record: Record) -> Iterator[Row]:
    pairs = rows_of(location, record, "qa_pairs")
    places = [f"{location}: qa_pairs[{number}]" for number in range(len(pairs))]
    answers = [strings_of(place, pair, "short_answers") for place, pair in zip(places, pairs, strict=True)]
    yield _row(location, record, answers, "prose", "qa_pairs")


def read_eli5(location: str, record: Record) -> Iterator[Row]:
    claims = strings_of(location, record, "claims")
    yield _row(location, record, [(claim,) for claim in claims], "claims", "claims")


def read_qampari(location: str, record: Record) -> Iterator[Row]:
    stated = record.get("style") or record.get("data_type")
    yield from read_grounded(location, record if stated else {**record, "style": "list"})


def _row(location: str, record: Record, answers: list[tuple[str, ...]], style: Style, field: str) -> Row:
    """The row, labelled where trust_eval has labelled it: by one flag per answer."""
    docs = [{"title": p.title, "text": p.text} for p in passages_of(location, record, "docs")]
    flags = [doc.get("answers_found") for doc in rows_of(location, record, "docs")]
    labelled = [doc | {"answers_found": row} for doc, row in zip(docs, flags, strict=True)]
    usual = {
        "question": text_of(location, record, "question"),
        "answers": [list(spellings) for spellings in answers],
        "docs": labelled,
        "style": record.get("style") or style,
        **{name: record[name] for name in ("data_type", "source") if record.get(name) is not None},
        "id": id_of(record),
        **rest_of(record, "question", "docs", "answers", "sample_id", "style", "data_type", "source", field),
    }
    (row,) = read_grounded(location, usual)
    return row


def _is_qampari(record: Record) -> bool:
    """Whether a record that states no other style has several answers, each a list of spellings."""
    answers = record.get("answers")
    several = isinstance(answers, list) and len(answers) > 1 and isinstance(answers[0], list)
    return several and not record.get("style") and str(record.get("data_type") or "qampari").lower() == "qampari"


ASQA = Reader(name="alce_asqa", keys=("docs", "qa_pairs.short_answers"), read=read_asqa, variants=False)
ELI5 = Reader(name="alce_eli5", keys=("docs", "claims"), read=read_eli5, variants=False)
QAMPARI = Reader(
    name="alce_qampari", keys=("docs.id", "docs.score", "answers"), read=read_qampari, where=_is_qampari, variants=False
)
