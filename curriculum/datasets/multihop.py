"""HotpotQA, 2WikiMultihopQA and MuSiQue: questions that take several passages, marked among distractors.

* HotpotQA and 2Wiki: `context` (pairs of title and sentences) and `supporting_facts` (pairs, titles first); on the hub
  both are objects of columns
* MuSiQue: `paragraphs` (title, paragraph_text, is_supporting), `answer` and `answer_aliases`
"""

from collections.abc import Iterator, Mapping
from typing import cast

from curriculum.datasets import Reader, Row
from curriculum.datasets.fields import flag_of, id_of, passages_of, rest_of, rows_of, strings_of, text_of
from grpo.data.files import Record, wrong_field


def read_hotpotqa(location: str, record: Record) -> Iterator[Row]:
    titles = _titles(location, record)
    passages = passages_of(location, record, "context")
    yield Row(
        location=location,
        question=text_of(location, record, "question"),
        passages=passages,
        answers=(strings_of(location, record, "answer"),),
        style="prose",
        needed=frozenset(place for place, passage in enumerate(passages) if passage.title in titles),
        id=id_of(record),
        extra=rest_of(record, "_id", "question", "context", "supporting_facts", "answer"),
    )


def _titles(location: str, record: Record) -> set[str]:
    facts = record.get("supporting_facts")
    if isinstance(facts, Mapping):
        return set(strings_of(f"{location}: supporting_facts", cast(Record, facts), "title"))
    pairs = cast(list[object], facts) if isinstance(facts, list) else [facts]
    titles = [cast(list[object], pair)[0] if isinstance(pair, list) and pair else None for pair in pairs]
    if not all(isinstance(title, str) for title in titles):
        raise wrong_field(location, "supporting_facts", facts, 'a list of pairs such as ["Title", 0]', record)
    return set(cast(list[str], titles))


def read_musique(location: str, record: Record) -> Iterator[Row]:
    marks = [
        flag_of(f"{location}: paragraphs[{n}]", paragraph, "is_supporting", False)
        for n, paragraph in enumerate(rows_of(location, record, "paragraphs"))
    ]
    aliases = strings_of(location, record, "answer_aliases") if record.get("answer_aliases") else ()
    yield Row(
        location=location,
        question=text_of(location, record, "question"),
        passages=passages_of(location, record, "paragraphs"),
        answers=((*strings_of(location, record, "answer"), *aliases),),
        style="prose",
        needed=frozenset(place for place, mark in enumerate(marks) if mark),
        unanswerable=not flag_of(location, record, "answerable", True),
        id=id_of(record),
        extra=rest_of(record, "question", "paragraphs", "answer", "answer_aliases", "answerable"),
    )


HOTPOTQA = Reader(name="hotpotqa", keys=("context", "supporting_facts"), read=read_hotpotqa)
MUSIQUE = Reader(name="musique", keys=("question", "paragraphs"), read=read_musique)
