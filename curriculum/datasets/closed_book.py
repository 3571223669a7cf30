"""Closed-book questions, to be answered from what the model knows: SimpleQA, PopQA, SelfAware and TriviaQA.

"GRPO for Factuality" mixes these four evenly. The fields of the first record of a source tell its format:

| source    | fields                                                  | on the hub                                   |
| --------- | ------------------------------------------------------- | -------------------------------------------- |
| simpleqa  | problem, answer                                         | basicv8vc/SimpleQA:test                      |
| popqa     | question, possible_answers (a list, or one as JSON)     | akariasai/PopQA:test                         |
| selfaware | question, answer (a list or null), answerable           | OkayestProgrammer/selfAware:train            |
| triviaqa  | question, answer {value, aliases}; the original file's  | mandarjoshi/trivia_qa:rc.nocontext/train     |
|           | Question, Answer {Value, Aliases}; or golden_answer,    |                                              |
|           | aliases joined by "/", improper (EVOUNA's human-judged) |                                              |

Licences: SimpleQA and PopQA MIT; TriviaQA and EVOUNA Apache-2.0; SelfAware CC BY-SA 4.0 and "research purposes only"
(its copy on the hub is not its authors'). A third of SelfAware's questions have no answer. They become examples without
answers, for which `Unknown` is right.

A new format is an entry in `FORMATS`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from curriculum.datasets import DataSpec
from grpo.data.example import Example, with_unique_id
from grpo.data.files import Record, read_records, text_field, wrong_field
from grpo.data.text import normalize
from grpo.errors import UserError

ALIASES = 'a list of accepted spellings such as ["Paris", "City of Paris"]'
NO_ANSWER = "with only answers of punctuation and articles"
IMPROPER = "marked as improper"
ASKED_BEFORE = "asked before"


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in cast(list[object], value)):
        raise ValueError
    return cast(list[str], value)


def _value_and_aliases(answer: object) -> list[str]:
    if not isinstance(answer, Mapping):
        raise ValueError
    fields = {str(name).lower(): value for name, value in cast(Record, answer).items()}
    return _strings([fields.get("value")]) + (_strings(fields["aliases"]) if fields.get("aliases") else [])


def split_aliases(text: str) -> list[str]:
    """EVOUNA's spellings, which are joined by "/". The whole text counts as a spelling too, because a spelling may have
    a slash of its own ("AC/DC").

    >>> split_aliases("Scorpio/Skorpio"), split_aliases("AC/DC")
    (['Scorpio', 'Skorpio', 'Scorpio/Skorpio'], ['AC', 'DC', 'AC/DC'])
    """
    parts = [part.strip() for part in text.split("/") if part.strip()]
    return [*parts, text] if len(parts) > 1 else [text]


@dataclass(frozen=True, slots=True)
class _Format:
    source: str
    question: str  # its field
    answer: str  # its field
    valid: str  # what that field should be
    read: Callable[[Any], list[str]]  # its value -> accepted spellings; ValueError for a value that is not valid
    matches: Callable[[Record], bool]  # whether a first record is in this format


ONE_ANSWER = "a string with text"
VALUE = "an object with value, a string, and aliases, a list of strings"
FORMATS = (
    _Format("simpleqa", "problem", "answer", ONE_ANSWER, lambda value: _strings([value]), lambda r: "problem" in r),
    _Format(
        "popqa",
        "question",
        "possible_answers",
        f"{ALIASES}, or its JSON",
        lambda value: _strings(json.loads(value) if isinstance(value, str) else value),
        lambda r: "possible_answers" in r,
    ),
    _Format("triviaqa", "question", "golden_answer", ONE_ANSWER, split_aliases, lambda r: "golden_answer" in r),
    _Format(
        "triviaqa", "question", "answer", VALUE, _value_and_aliases, lambda r: isinstance(r.get("answer"), Mapping)
    ),
    _Format("triviaqa", "Question", "Answer", VALUE, _value_and_aliases, lambda r: "Answer" in r),
    _Format("selfaware", "question", "answer", ALIASES, _strings, lambda r: "answerable" in r),
)


def matches(record: Record) -> bool:
    return any(known.matches(record) for known in FORMATS)


def load(source: str, spec: DataSpec) -> tuple[list[Example], str]:
    examples, dropped = load_closed_book(source)
    kept, repeated = drop_repeated(examples)
    return kept, f"{source}: {describe_counts(kept, {**dropped, ASKED_BEFORE: repeated})}"


def load_closed_book(source: str | Path) -> tuple[list[Example], Counter[str]]:
    """The questions of a file or of `hub:NAME...`, in order, and how many were dropped, by reason.

    Ids are the source's name and the number of the record. UserError names the record and its wrong field.
    """
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    known: _Format | None = None
    for number, (location, record) in enumerate(read_records(source), 1):
        known = known or _format_of(location, record)
        if record.get("improper") is True:
            dropped[IMPROPER] += 1
            continue
        question, spellings = text_field(location, record, known.question), _spellings(location, record, known)
        answers = tuple(dict.fromkeys(alias.strip() for alias in spellings if normalize(alias)))
        if spellings and not answers:
            dropped[NO_ANSWER] += 1
            continue
        examples.append(
            Example(
                id=f"{known.source}-{number:06d}",
                question=question.strip(),
                passages=(),
                answers=(answers,) if answers else (),
                found=(),
                style="closed",
                source=known.source,
            )
        )
    return examples, dropped


def _format_of(location: str, record: Record) -> _Format:
    for known in FORMATS:
        if known.matches(record):
            return known
    raise UserError(
        f"{location}: not a closed-book question; expected problem (SimpleQA), possible_answers (PopQA), answerable "
        "(SelfAware), answer with aliases (TriviaQA) or golden_answer (EVOUNA)"
    )


def _spellings(location: str, record: Record, known: _Format) -> list[str]:
    """The accepted spellings of the answer; none if the record says that nobody can answer the question."""
    value, answerable = record.get(known.answer), record.get("answerable") if known.source == "selfaware" else True
    if not isinstance(answerable, bool):
        raise wrong_field(location, "answerable", answerable, "true or false")
    if not answerable:
        if value:
            raise wrong_field(location, known.answer, value, "null, since answerable is false")
        return []
    try:
        return known.read(value)
    except (ValueError, TypeError, AttributeError):
        raise wrong_field(location, known.answer, value, known.valid) from None


def drop_repeated(examples: Iterable[Example]) -> tuple[list[Example], int]:
    """The examples with unique ids and without closed-book questions that came before, and the number of these:
    SelfAware took some of its questions from TriviaQA."""
    kept: list[Example] = []
    ids: set[str] = set()
    seen: set[str] = set()
    repeated = 0
    for example in examples:
        key = normalize(example.question)
        if example.style == "closed" and key in seen:
            repeated += 1
            continue
        seen.add(key)
        kept.append(with_unique_id(example, ids))
        ids.add(kept[-1].id)
    return kept, repeated


def describe_counts(examples: Sequence[Example], dropped: Mapping[str, int]) -> str:
    """What was loaded and dropped: "4,326 of simpleqa, 3,369 of selfaware; dropped 62 marked as improper"."""
    kept = Counter(example.source for example in examples)
    text = ", ".join(f"{count:,} of {name}" for name, count in kept.items())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
    return f"{text}; dropped {reasons}" if reasons else text
