"""Grounded examples from question-answer pairs: hard distractors are retrieved, and both variants of a question made.

The questions have one of the formats of `curriculum.datasets.qa_formats`. The index holds every passage of theirs and
of a further file, each once. A question's distractors are its own other passages, then those that BM25 ranks highest
for it. Whether a passage holds the answer is looked up in the text that the model will see, the gold passage included:
of NQ's 2,591 usable questions 331 have an accepted answer in one of their four nearest distractors.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from pathlib import Path
from typing import Literal

from curriculum.datasets import DataSpec
from curriculum.datasets.qa_formats import QuestionAnswer, has_passages, read_passages, read_questions
from curriculum.retrieval import BM25Index, passage_key, shown_text
from curriculum.transforms import truncate_passage
from grpo.data.example import Example, Passage
from grpo.data.files import Record, source_name
from grpo.data.text import contains, normalize
from grpo.errors import UserError

# Normalized characters. "7" or "us" is in most passages by accident, so that looking it up says nothing; without such
# a spelling, a passage that has only this one would count as one without an answer. The question is dropped instead.
MIN_ANSWER = 3
SHORT_ANSWER = f"with an answer of fewer than {MIN_ANSWER} characters"
GOLD_WITHOUT_ANSWER = "with no answer in the gold passage"
LONG_ANSWER = "with an answer longer than max_words"
ASKED_BEFORE = "asked before"
MARKED = "marked as unanswerable"
MUCH_SUPPORT = "that take more passages than an example has"
NOT_ENTAILED = "with an answer that no passage entails"
NO_VARIANT = "with too few passages for either variant"

Share = float | Literal["any"]
Entails = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
"""A judge: pairs of premise and hypothesis -> probabilities."""

Variants = tuple[Example | None, Example | None]
"""A question with its gold passages, and without any answer; None if the passages do not suffice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What became of the questions: `read` = `kept` + all `dropped`. Examples: `answerable` + `unanswerable`."""

    read: int  # 2655 questions
    kept: int  # 2591 of them
    dropped: Mapping[str, int]  # {"with an answer of fewer than 3 characters": 64, ...}: questions by reason
    short_answers: int  # 68 spellings are that short, in the questions dropped for it
    pool: int  # 2526 passages to draw distractors from
    duplicate_passages: int  # 65 more have the text of one of them
    answerable: int  # 2591 examples
    unanswerable: int  # 2591 examples
    without_refusal: int  # 0 kept questions lack an unanswerable variant: too few passages are free of their answer
    distractors_with_answer: int  # 263 answerable examples of which some distractor holds an answer too

    def __str__(self) -> str:
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none"
        share = 100 * self.distractors_with_answer / max(self.answerable, 1)
        return (
            f"{self.read} questions, {self.kept} kept (dropped: {dropped}); {self.answerable} answerable examples, "
            f"{self.distractors_with_answer} of them with an answer in a distractor ({share:.1f} %), "
            f"{self.unanswerable} unanswerable; {self.short_answers} short spellings; "
            f"{self.pool} passages in the pool, {self.duplicate_passages} duplicates"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A usable question, and its passages as the model will see them."""

    pair: QuestionAnswer
    gold: tuple[Passage, ...]
    others: tuple[Passage, ...]


def matches(record: Record) -> bool:
    return has_passages(record)


def load(source: str, spec: DataSpec) -> tuple[list[Example], str]:
    """All variants of all questions; a recipe's shares are drawn from them after the split."""
    examples, report = build_from_qa(
        source,
        passages=spec.passages,
        unanswerable="any",
        seed=spec.seed,
        max_words=spec.max_words,
        source=source_name(source),
    )
    return examples, f"{source}: {report}"


def build_from_qa(
    path: str | Path,
    *,
    passages: int = 3,
    unanswerable: Share = 0.5,
    seed: int = 0,
    max_words: int | None = None,
    source: str = "nq",
    pool: str | Path | None = None,
    entails: Entails | None = None,
) -> tuple[list[Example], BuildReport]:
    """Examples of `passages` passages each; the share `unanswerable` of them, within one example, is to be refused.

    A question's answerable variant, "nq-000017" after its record number, has its gold passages at uniformly random
    positions among distractors. Its unanswerable variant, "nq-000017-u", has only passages in whose title and text no
    accepted answer is found. As many examples as the share allows are made; with "any" all variants, for a share that
    is drawn later (`curriculum.mixing.mix`). `max_words` truncates gold passages and distractors alike, around the
    answer to their own question. With a judge `entails`, a passage holds an answer if it spells the answer and entails
    the question with it (Trust-Align, appendix B).
    """
    _check_arguments(passages, unanswerable, max_words)
    dropped: Counter[str] = Counter()
    short_answers, questions = _usable_questions(path, passages, max_words, seed, dropped)
    index = _make_index(questions, pool, max_words, seed)
    if len(index.passages) < passages:
        raise UserError(
            f"{path}: passages = {passages}, but it has {len(index.passages)} usable ones; expected at most that"
            f"{' or a larger --pool' if pool else ' or a --pool'}"
        )
    variants = [_make_variants(index, question, passages, source, seed) for question in questions]
    if entails:
        variants = _entailed_variants(variants, entails)
    made = [pair for pair in variants if pair != (None, None)]
    dropped += Counter({NOT_ENTAILED: len(questions) - len(variants), NO_VARIANT: len(variants) - len(made)})
    if not made:
        raise _nothing_usable(path, dropped)
    examples = _choose(made, unanswerable, random.Random(f"{seed} forms"))
    answerable = [example for example in examples if example.answerable]
    return examples, BuildReport(
        read=len(made) + dropped.total(),
        kept=len(made),
        dropped=dict(dropped),
        short_answers=short_answers,
        pool=len(index.passages),
        duplicate_passages=index.duplicates,
        answerable=len(answerable),
        unanswerable=len(examples) - len(answerable),
        without_refusal=sum(without is None for _, without in made),
        distractors_with_answer=sum(len(example.passages_with(0)) > 1 for example in answerable),
    )


def _check_arguments(passages: int, unanswerable: Share, max_words: int | None) -> None:
    is_share = unanswerable == "any" or 0 <= unanswerable <= 1
    if passages < 1 or not is_share or (max_words is not None and max_words < 1):
        raise UserError(
            f"passages = {passages}, unanswerable = {unanswerable}, max_words = {max_words}; "
            "expected passages >= 1, 0 <= unanswerable <= 1 and max_words >= 1 or none"
        )


def _usable_questions(
    path: str | Path, passages: int, max_words: int | None, seed: int, dropped: Counter[str]
) -> tuple[int, list[_Question]]:
    """How many spellings are too short, and the usable questions. The others are counted in `dropped` by reason.

    UserError if no question is usable.
    """
    questions: list[_Question] = []
    short_answers = 0
    seen: set[str] = set()
    for pair in read_questions(path):
        short = sum(len(normalize(answer)) < MIN_ANSWER for answer in pair.answers)
        short_answers += short
        key = normalize(pair.text) or pair.text
        rng = random.Random(f"{seed} cut {pair.number}")
        question = SHORT_ANSWER if short or not pair.answers else _usable(pair, passages, max_words, rng)
        if isinstance(question, str):
            dropped[question] += 1
        elif key in seen:
            dropped[ASKED_BEFORE] += 1
        else:
            seen.add(key)
            questions.append(question)
    if not questions:
        raise _nothing_usable(path, dropped)
    return short_answers, questions


def _nothing_usable(path: str | Path, dropped: Mapping[str, int]) -> UserError:
    return UserError(
        f"{path}: no question can be used ({dict(dropped)}); expected an answer that its gold passage holds"
    )


def _usable(pair: QuestionAnswer, passages: int, max_words: int | None, rng: random.Random) -> _Question | str:
    """The question with its passages as the model will see them, or the reason why it cannot be used."""
    if pair.marked:
        return MARKED
    if len(pair.gold) > passages:
        return MUCH_SUPPORT
    if pair.gold and not any(contains(passage.text, pair.answers) for passage in pair.gold):
        return GOLD_WITHOUT_ANSWER
    shown: dict[str, tuple[Passage, Passage | None]] = {}  # by key, since a log may hold a passage twice
    for whole in (*pair.gold, *pair.others):
        if passage_key(whole) not in shown:
            shown[passage_key(whole)] = (whole, truncate_passage(whole, pair.answers, max_words, rng))
    needed = {passage_key(passage) for passage in pair.gold}
    gold = [(whole, seen) for key, (whole, seen) in shown.items() if key in needed and seen]
    others = [(whole, seen) for key, (whole, seen) in shown.items() if key not in needed and seen]
    if len(gold) < len(needed) or not (gold or others):
        return LONG_ANSWER
    return _Question(
        pair=replace(pair, gold=tuple(whole for whole, _ in gold), others=tuple(whole for whole, _ in others)),
        gold=tuple(seen for _, seen in gold),
        others=tuple(seen for _, seen in others),
    )


def _make_index(questions: Sequence[_Question], path: str | Path | None, max_words: int | None, seed: int) -> BM25Index:
    """Every passage of the questions, gold passages first, then those of a file."""
    pairs = [p for question in questions for p in zip(question.pair.gold, question.gold, strict=True)]
    pairs += [p for question in questions for p in zip(question.pair.others, question.others, strict=True)]
    rng = random.Random(f"{seed} pool")
    for passage in read_passages(path) if path else ():
        pairs.append((passage, truncate_passage(passage, (), max_words, rng) or passage))
    return BM25Index(pairs)


def _make_variants(index: BM25Index, question: _Question, count: int, source: str, seed: int) -> Variants:
    """The question with its gold passages, if it has any; and with passages without its answer, if there are enough."""
    pair = question.pair
    rng = random.Random(f"{seed} {pair.number}")
    keys = [normalize(answer) for answer in pair.answers]
    room = count - len(question.gold)
    shown = list(question.others[:room])
    free = [p for p in question.others if not contains(shown_text(p), pair.answers)][:count]
    own = {passage_key(passage) for passage in (*pair.gold, *pair.others, *question.others)}
    for position in index.search(pair.text, without=own):
        if len(shown) >= room and len(free) >= count:
            break
        if len(shown) < room:
            shown.append(index.passages[position])
        if len(free) < count and not index.holds(position, keys):
            free.append(index.passages[position])
    rng.shuffle(shown)  # else the nearest distractor would always come first
    for passage in question.gold:
        shown.insert(rng.randrange(len(shown) + 1), passage)
    rng.shuffle(free)

    def example(suffix: str, passages: Sequence[Passage]) -> Example:
        return Example(
            id=f"{source}-{pair.number:06d}{suffix}",
            question=pair.text,
            passages=tuple(passages),
            answers=(pair.answers,),
            found=tuple((contains(passage.text, pair.answers),) for passage in passages),
            style="prose",
            source=source,
        )

    with_gold = example("", shown) if question.gold and len(shown) == count else None
    return with_gold, example("-u", free) if len(free) == count else None


def _entailed_variants(variants: Sequence[Variants], entails: Entails) -> list[Variants]:
    """The variants with `found` only where the judge agrees, without the questions that no passage answers any more."""
    pairs = dict.fromkeys(pair for with_gold, _ in variants if with_gold for pair in _hypotheses(with_gold).values())
    verdicts = dict(zip(pairs, entails(list(pairs)), strict=True))
    judged: list[Variants] = []
    for with_gold, without in variants:
        if with_gold is None:
            judged.append((None, without))
            continue
        entailed = {position for position, pair in _hypotheses(with_gold).items() if verdicts[pair] > 0.5}
        if entailed:
            found = tuple((position in entailed,) for position in range(len(with_gold.passages)))
            judged.append((replace(with_gold, found=found), without))
    return judged


def _hypotheses(example: Example) -> dict[int, tuple[str, str]]:
    """Premise and hypothesis of every passage that spells the answer, by its position."""
    hypothesis = f"{example.question} {example.answers[0][0]}"
    return {
        position: (f"Title: {passage.title}\n{passage.text}", hypothesis)
        for position, passage in enumerate(example.passages)
        if example.found[position][0]
    }


def _choose(variants: Sequence[Variants], share: Share, rng: random.Random) -> list[Example]:
    """As many variants as give the share of unanswerable ones, in order."""
    answerable = [n for n, (with_gold, _) in enumerate(variants) if with_gold]
    refusable = [n for n, (_, without) in enumerate(variants) if without]
    if share != "any":
        total = min(
            len(answerable) / (1 - share) if share < 1 else float("inf"),
            len(refusable) / share if share > 0 else float("inf"),
        )
        total = floor(total + 1e-9)  # 1 / (1 - 2 / 3) is a little less than 3
        refused = round(total * share)
        if total < 1:
            valid = "0, or a larger file" if answerable else "1, or questions whose passages hold the answer"
            short = "every passage holds an answer" if answerable else "no passage holds one"
            raise UserError(f"unanswerable = {share}, but {short}; expected {valid}")
        answerable, refusable = rng.sample(answerable, total - refused), rng.sample(refusable, refused)
    kept = ({*answerable}, {*refusable})
    return [
        example
        for n, pair in enumerate(variants)
        for example, chosen in zip(pair, kept, strict=True)
        if example and n in chosen
    ]
