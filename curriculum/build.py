"""Grounded examples from question-answer pairs: retrieve hard distractors, look for the answer, make both forms.

The input has the shape of NQ-open-oracle: `question`, `answers` (accepted spellings of one answer) and `ctxs`, one of
them the gold passage. The pool is every gold passage, once; a question's distractors are the passages of the pool that
BM25 ranks highest for it. Whether a passage holds the answer is looked up in the text that the model will see, the gold
passage included: of NQ's 2,627 usable questions 339 have an accepted answer in one of their four nearest distractors.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import cast

import bm25s
import numpy as np

from grpo.data import Record, read_records, text_field
from grpo.text import contains, normalize
from grpo.types import Example, InputError, Passage

MIN_ANSWER = 3  # normalized characters; "7" or "us" stands in most passages by accident
SHORT_ANSWER = f"with no answer of {MIN_ANSWER} characters or more"
GOLD_WITHOUT_ANSWER = "with no answer in the gold passage"
LONG_ANSWER = "with an answer longer than max_words"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What became of the questions: `read` = `kept` + all `dropped`. Examples: `answerable` + `unanswerable`."""

    read: int  # 2655 questions
    kept: int  # 2627 of them
    dropped: Mapping[str, int]  # {"with no answer of 3 characters or more": 27, ...}: questions by reason
    short_answers: int  # 68 spellings left out for being short, in kept and dropped questions
    answerable: int  # 2627 examples
    unanswerable: int  # 2627 examples
    without_refusal: int  # 0 kept questions lack an unanswerable form: too few passages are free of their answer
    distractors_with_answer: int  # 263 answerable examples of which some distractor holds an answer too

    def __str__(self) -> str:
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none"
        return (
            f"{self.read} questions, {self.kept} kept (dropped: {dropped}); {self.answerable} answerable examples, "
            f"{self.distractors_with_answer} of them with an answer in a distractor, {self.unanswerable} unanswerable"
        )


def build_from_qa(
    path: str | Path,
    *,
    passages: int = 3,
    unanswerable: float = 0.5,
    seed: int = 0,
    max_words: int | None = None,
    source: str = "nq",
) -> tuple[list[Example], BuildReport]:
    """Examples of `passages` passages each; the share `unanswerable` of them, to within one example, is to be refused.

    A question's answerable form, "nq-000017" after its record number, has the gold passage at a uniformly random
    place among distractors. Its unanswerable form, "nq-000017-u", has only passages in whose title and text no accepted
    answer is found. As many examples as the share allows are made: at one half, both forms of every question. The same
    file, arguments and seed give the same examples in the same order.

    `max_words` cuts each passage to that many words around the answer to its own question, the distractors just like
    the gold passage, so that the cut does not give the gold passage away.
    """
    if passages < 1 or not 0 <= unanswerable <= 1 or (max_words is not None and max_words < 1):
        raise InputError(
            f"passages = {passages}, unanswerable = {unanswerable}, max_words = {max_words}; "
            "expected passages >= 1, 0 <= unanswerable <= 1 and max_words >= 1 or none"
        )
    read = _read(path, max_words, seed)
    pool = _Pool(read.questions)
    if len(pool.passages) < passages:
        raise InputError(
            f"{path}: passages = {passages}, but it has {len(pool.passages)} usable ones; expected at most that"
        )
    forms = [_forms(pool, question, passages, source, seed) for question in read.questions]
    refusable = [place for place, (_, refused) in enumerate(forms) if refused]
    answered, refused = _choose(len(forms), refusable, unanswerable, random.Random(f"{seed} forms"))
    examples: list[Example] = []
    for place, (with_gold, without) in enumerate(forms):
        examples += [with_gold] if place in answered else []
        examples += [without] if without and place in refused else []
    report = BuildReport(
        read=len(forms) + read.dropped.total(),
        kept=len(forms),
        dropped=dict(read.dropped),
        short_answers=read.short_answers,
        answerable=len(answered),
        unanswerable=len(refused),
        without_refusal=len(forms) - len(refusable),
        distractors_with_answer=sum(len(forms[place][0].holders(0)) > 1 for place in answered),
    )
    return examples, report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    number: int  # of the record in the file, from 1
    text: str
    answers: tuple[str, ...]  # the spellings of MIN_ANSWER characters or more
    gold: Passage  # whole
    cut: Passage  # as the model will see it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    questions: list[_Question]
    dropped: Counter[str]
    short_answers: int


def _read(path: str | Path, max_words: int | None, seed: int) -> _Read:
    questions: list[_Question] = []
    dropped: Counter[str] = Counter()
    short = 0
    for number, (place, record) in enumerate(read_records(path), 1):
        text, accepted, gold = _fields(place, record)
        answers = tuple(answer for answer in accepted if len(normalize(answer)) >= MIN_ANSWER)
        short += len(accepted) - len(answers)
        if not answers:
            dropped[SHORT_ANSWER] += 1
        elif not contains(gold.text, answers):
            dropped[GOLD_WITHOUT_ANSWER] += 1
        elif (cut := _cut(gold, answers, max_words, random.Random(f"{seed} cut {number}"))) is None:
            dropped[LONG_ANSWER] += 1
        else:
            questions.append(_Question(number=number, text=text, answers=answers, gold=gold, cut=cut))
    if not questions:
        raise InputError(
            f"{path}: no question can be used ({dict(dropped)}); expected an answer that its gold passage holds"
        )
    return _Read(questions=questions, dropped=dropped, short_answers=short)


def _fields(place: str, record: Record) -> tuple[str, tuple[str, ...], Passage]:
    """Question, accepted answers and gold passage of a record; anything amiss is an `InputError`."""
    question = text_field(place, record, "question")
    answers = record.get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in cast(list[object], answers)):
        raise InputError(
            f'{place}: answers is {answers!r:.60}; expected a list of accepted spellings such as ["Paris"]'
        )
    ctxs = record.get("ctxs")
    if not isinstance(ctxs, list) or not all(isinstance(ctx, Mapping) for ctx in cast(list[object], ctxs)):
        raise InputError(f"{place}: ctxs is {ctxs!r:.60}; expected a list of objects with title, text and isgold")
    rows = cast(list[Record], ctxs)
    gold = [row for row in rows if row.get("isgold", len(rows) == 1)]
    if len(gold) != 1:
        raise InputError(f"{place}: ctxs has {len(gold)} gold passages; expected exactly one with isgold true")
    title, text = (
        text_field(f"{place}: ctxs", gold[0], "title", empty=True),
        text_field(f"{place}: ctxs", gold[0], "text"),
    )
    return question, tuple(cast(list[str], answers)), Passage(title=title, text=text)


def _cut(passage: Passage, answers: tuple[str, ...], max_words: int | None, rng: random.Random) -> Passage | None:
    """The passage within `max_words` words that hold the answer, anywhere among them; None if the answer is longer."""
    words = passage.text.split()
    if max_words is None or len(words) <= max_words:
        return passage
    start, end = _span(words, answers)
    if end - start > max_words:
        return None
    first = rng.randint(max(0, end - max_words), min(start, len(words) - max_words))
    return Passage(title=passage.title, text=" ".join(words[first : first + max_words]))


def _span(words: Sequence[str], answers: tuple[str, ...]) -> tuple[int, int]:
    """The smallest range of words around the first place where an answer stands, which must be somewhere in `words`."""

    def whole(part: Sequence[str]) -> bool:
        body = f" {normalize(' '.join(part))} "
        return any(f" {normalize(answer)} " in body for answer in answers)

    def anyhow(part: Sequence[str]) -> bool:
        return contains(" ".join(part), answers)

    # "one" should be found in "one goal" before "someone"; an answer inside a word is the last resort
    holds = whole if whole(words) else anyhow
    end = next(end for end in range(1, len(words) + 1) if holds(words[:end]))
    start = next(start for start in range(end - 1, -1, -1) if holds(words[start:end]))
    return start, end


class _Pool:
    """Every gold passage once, with a BM25 index over titles and texts."""

    def __init__(self, questions: Sequence[_Question]) -> None:
        first: dict[str, Passage] = {}  # of passages that several questions share, the cut of the first one
        for question in questions:
            first.setdefault(normalize(question.gold.text), question.cut)
        self.keys = tuple(first)
        self.passages = tuple(first.values())
        self._index = bm25s.BM25()
        self._index.index(_tokens([_shown(passage) for passage in self.passages]), show_progress=False)

    def near(self, question: _Question) -> Iterator[Passage]:
        """All passages but the question's own gold one, the nearest first."""
        own = normalize(question.gold.text)
        words = _tokens([question.text])[0]
        scores = self._index.get_scores(words) if words else np.zeros(len(self.keys))  # get_scores fails on no words
        for place in np.argsort(-scores, kind="stable"):
            if self.keys[place] != own:
                yield self.passages[place]


def _tokens(texts: list[str]) -> list[list[str]]:
    return cast(list[list[str]], bm25s.tokenize(texts, return_ids=False, show_progress=False))


def _shown(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}"


def _forms(pool: _Pool, question: _Question, count: int, source: str, seed: int) -> tuple[Example, Example | None]:
    """The question with its gold passage, and without any answer (None where too few passages are free of it)."""
    rng = random.Random(f"{seed} {question.number}")
    key = f"{source}-{question.number:06d}"
    shown: list[Passage] = []
    free: list[Passage] = []
    for passage in pool.near(question):
        if len(shown) < count - 1:
            shown.append(passage)
        if len(free) < count and not contains(_shown(passage), question.answers):
            free.append(passage)
        if len(shown) == count - 1 and len(free) == count:
            break
    rng.shuffle(shown)  # else the nearest distractor would always stand before the others
    shown.insert(rng.randrange(count), question.cut)
    rng.shuffle(free)
    without = _example(f"{key}-u", question, free, source) if len(free) == count else None
    return _example(key, question, shown, source), without


def _example(key: str, question: _Question, passages: Sequence[Passage], source: str) -> Example:
    return Example(
        id=key,
        question=question.text,
        passages=tuple(passages),
        answers=(question.answers,),
        found=tuple((contains(passage.text, question.answers),) for passage in passages),
        style="prose",
        source=source,
    )


def _choose(count: int, refusable: Sequence[int], share: float, rng: random.Random) -> tuple[set[int], set[int]]:
    """Which questions get their answerable and which their unanswerable form: as many as give the share."""
    total = min(
        count / (1 - share) if share < 1 else float("inf"),
        len(refusable) / share if share > 0 else float("inf"),
    )
    refused = round(floor(total) * share)
    if total < 1:
        raise InputError(f"unanswerable = {share}, but every passage holds an answer; expected 0, or a larger file")
    return set(rng.sample(range(count), floor(total) - refused)), set(rng.sample(refusable, refused))
