"""SQuAD 1 and 2: the original file, of articles with paragraphs and questions, and the columns on the hub.

A question of SQuAD 2 without an answer is one that its paragraph does not answer. A paragraph is one passage; the
others are retrieved (`curriculum.builder`).
"""

from collections.abc import Iterator, Mapping
from typing import cast

from curriculum.datasets import Reader, Row
from curriculum.datasets.fields import flag_of, id_of, rest_of, rows_of, strings_of, text_of
from grpo.data.example import Passage
from grpo.data.files import Record


def read_article(location: str, record: Record) -> Iterator[Row]:
    """The rows of an article: {"title", "paragraphs": [{"context", "qas": [{"question", "answers"}]}]}."""
    for number, paragraph in enumerate(rows_of(location, record, "paragraphs")):
        place = f"{location}: paragraphs[{number}]"
        for position, question in enumerate(rows_of(place, paragraph, "qas")):
            whole = {**question, "context": paragraph.get("context"), "title": record.get("title")}
            yield from read_question(f"{place}.qas[{position}]", whole)


def read_question(location: str, record: Record) -> Iterator[Row]:
    answers = record.get("answers")
    if isinstance(answers, Mapping):
        spellings = strings_of(f"{location}: answers", cast(Record, answers), "text")
    else:
        rows = rows_of(location, record, "answers")
        spellings = tuple(text_of(f"{location}: answers[{n}]", row, "text") for n, row in enumerate(rows))
    title = record.get("title")
    passage = Passage(title=title if isinstance(title, str) else "", text=text_of(location, record, "context"))
    yield Row(
        location=location,
        question=text_of(location, record, "question"),
        passages=(passage,),
        answers=(tuple(dict.fromkeys(spellings)),) if spellings else (),
        style="prose",
        needed=frozenset({0}),
        unanswerable=flag_of(location, record, "is_impossible", False) or not spellings,
        id=id_of(record),
        extra=rest_of(record, "title", "context", "question", "answers", "is_impossible"),
    )


ARTICLES = Reader(name="squad_file", keys=("paragraphs.qas",), read=read_article)
COLUMNS = Reader(name="squad", keys=("context", "answers.text"), read=read_question)
