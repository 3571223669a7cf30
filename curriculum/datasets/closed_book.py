"""Which closed-book questions are there, and what answers them? SimpleQA, PopQA, SelfAware and TriviaQA, read into one.

Questions without passages, to be answered from what the model knows ("GRPO for Factuality" mixes these four evenly). A
file, or a data set of the hub, is known by the fields of its first record:

| source    | fields                                                  | on the hub                                   |
| --------- | ------------------------------------------------------- | -------------------------------------------- |
| simpleqa  | problem, answer                                         | basicv8vc/SimpleQA:test                      |
| popqa     | question, possible_answers (a list, or one as JSON)     | akariasai/PopQA:test                         |
| selfaware | question, answer (a list or null), answerable           | OkayestProgrammer/selfAware:train            |
| triviaqa  | question, answer {value, aliases}; the original file's  | mandarjoshi/trivia_qa:rc.nocontext/train     |
|           | Question, Answer {Value, Aliases}; or golden_answer,    |                                              |
|           | aliases joined by "/", improper (EVOUNA's human-judged) |                                              |

SimpleQA is MIT, PopQA MIT, SelfAware's data CC BY-SA 4.0 and "research purposes only" (its copy on the hub is not its
authors'), TriviaQA Apache-2.0, EVOUNA Apache-2.0; check what you train on. A third of SelfAware's questions have no
answer: they become examples without answers, for which `Unknown` is right.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from grpo.data.example import Example, Record, read_records, text_field, with_unique_id
from grpo.data.text import normalize
from grpo.errors import UserError

ALIASES = 'a list of accepted spellings such as ["Paris", "City of Paris"]'
NO_ANSWER = "with only answers of punctuation and articles"
IMPROPER = "marked as improper"
ASKED_BEFORE = "asked before"

Read = tuple[str, tuple[str, ...]]
"""Question and accepted spellings; none where nobody can answer it."""


def load_closed_book(source: str | Path) -> tuple[list[Example], Counter[str]]:
    """The questions of a file or of `hub:NAME...`, in order, and how many were dropped, by why.

    Ids are the source's name and the number of the record. UserError names the record and the field that is wrong.
    """
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    name, read = "", _simpleqa
    for number, (place, record) in enumerate(read_records(source), 1):
        if not name:
            name, read = reader_of(place, record)
        if record.get("improper") is True:
            dropped[IMPROPER] += 1
            continue
        question, spellings = read(place, record)
        answers = tuple(dict.fromkeys(alias.strip() for alias in spellings if normalize(alias)))
        if spellings and not answers:
            dropped[NO_ANSWER] += 1
            continue
        examples.append(
            Example(
                id=f"{name}-{number:06d}",
                question=question.strip(),
                passages=(),
                answers=(answers,) if answers else (),
                found=(),
                style="closed",
                source=name,
            )
        )
    return examples, dropped


def drop_repeated(examples: Iterable[Example]) -> tuple[list[Example], int]:
    """The examples with ids of their own and without closed-book questions that were asked before, and how many those
    were: SelfAware took some of its questions from TriviaQA."""
    kept: list[Example] = []
    ids: set[str] = set()
    asked: set[str] = set()
    again = 0
    for example in examples:
        key = normalize(example.question)
        if example.style == "closed" and key in asked:
            again += 1
            continue
        asked.add(key)
        kept.append(with_unique_id(example, ids))
        ids.add(kept[-1].id)
    return kept, again


def reader_of(place: str, record: Record) -> tuple[str, Callable[[str, Record], Read]]:
    """The source's name and how its records are read, by this one; UserError where the fields are of none of them."""
    for name, is_one, read in SHAPES:
        if is_one(record):
            return name, read
    raise UserError(
        f"{place}: not a closed-book question; expected problem (SimpleQA), possible_answers (PopQA), answerable "
        "(SelfAware), answer with aliases (TriviaQA) or golden_answer (EVOUNA)"
    )


def _simpleqa(place: str, record: Record) -> Read:
    return text_field(place, record, "problem"), (text_field(place, record, "answer"),)


def _popqa(place: str, record: Record) -> Read:
    value = record.get("possible_answers")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise _wrong(place, "possible_answers", value, f"{ALIASES}, or its JSON") from None
    return text_field(place, record, "question"), _aliases(place, "possible_answers", value)


def _selfaware(place: str, record: Record) -> Read:
    answerable, answer = record.get("answerable"), record.get("answer")
    if not isinstance(answerable, bool):
        raise _wrong(place, "answerable", answerable, "true or false")
    if not answerable:
        if answer:
            raise _wrong(place, "answer", answer, "null, since answerable is false")
        return text_field(place, record, "question"), ()
    return text_field(place, record, "question"), _aliases(place, "answer", answer)


def _triviaqa(place: str, record: Record) -> Read:
    """Of the hub or of the original file: the same fields but for their capitals."""
    low = {name.lower(): value for name, value in record.items()}
    answer = low.get("answer")
    if not isinstance(answer, Mapping):
        raise _wrong(place, "answer", answer, "an object with value and aliases")
    fields = {str(name).lower(): value for name, value in cast(Mapping[str, object], answer).items()}
    value = text_field(f"{place}: answer", fields, "value")
    return text_field(place, low, "question"), (value, *_aliases(place, "answer.aliases", fields.get("aliases", []), 0))


def _evouna(place: str, record: Record) -> Read:
    return text_field(place, record, "question"), joined_aliases(text_field(place, record, "golden_answer"))


def joined_aliases(text: str) -> tuple[str, ...]:
    """EVOUNA's spellings, which it joins by "/": one that has a slash of its own ("AC/DC") cannot be told, so all of
    them together are a spelling as well.

    >>> joined_aliases("Scorpio/Skorpio"), joined_aliases("AC/DC")
    (('Scorpio', 'Skorpio', 'Scorpio/Skorpio'), ('AC', 'DC', 'AC/DC'))
    """
    parts = [part.strip() for part in text.split("/") if part.strip()]
    return (*parts, text) if len(parts) > 1 else (text,)


Shape = tuple[str, Callable[[Record], bool], Callable[[str, Record], Read]]
SHAPES: Sequence[Shape] = (
    ("simpleqa", lambda record: "problem" in record, _simpleqa),
    ("popqa", lambda record: "possible_answers" in record, _popqa),
    ("triviaqa", lambda record: "golden_answer" in record, _evouna),
    ("triviaqa", lambda record: "Answer" in record or isinstance(record.get("answer"), Mapping), _triviaqa),
    ("selfaware", lambda record: "answerable" in record, _selfaware),
)
"""The sources' names, how a record is known for one of theirs, and how it is read."""


def _aliases(place: str, field: str, value: object, least: int = 1) -> tuple[str, ...]:
    rows = cast(list[object], value) if isinstance(value, list) else None
    if rows is None or len(rows) < least or not all(isinstance(row, str) for row in rows):
        raise _wrong(place, field, value, ALIASES)
    return tuple(cast(list[str], rows))


def _wrong(place: str, field: str, value: object, valid: str) -> UserError:
    return UserError(f"{place}: {field} is {value!r:.60}; expected {valid}")


def describe_counts(examples: Sequence[Example], counts: Mapping[str, int]) -> str:
    """What was loaded, in words: "4,326 of simpleqa, 3,369 of selfaware; dropped 62 marked as improper"."""
    found = Counter(example.source for example in examples)
    kept = ", ".join(f"{count:,} of {name}" for name, count in found.items())
    gone = ", ".join(f"{count:,} {why}" for why, count in counts.items() if count)
    return f"{kept}; dropped {gone}" if gone else kept
