"""Which passages does an example show? Gold ones among hard distractors; and a form to refuse, without an answer."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from curriculum.datasets.qa_formats import Asked
from curriculum.retrieval import BM25Index, passage_key, shown_text
from grpo.data.example import Example, Passage
from grpo.data.text import contains, normalize

Entails = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
"""A judge: pairs of premise and hypothesis -> probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that can be used."""

    asked: Asked
    answers: tuple[str, ...]  # accepted spellings
    gold: tuple[Passage, ...]  # as the model will see them
    others: tuple[Passage, ...]


Variants = tuple[Example | None, Example | None]
"""With the gold passages, and without any answer."""


def make_variants(pool: BM25Index, question: Question, count: int, source: str, seed: int) -> Variants:
    """The question with its gold passages, and without any answer; None where it has none, or where too few passages
    are free of the answer."""
    asked = question.asked
    rng = random.Random(f"{seed} {asked.number}")
    key = f"{source}-{asked.number:06d}"
    keys = [normalize(answer) for answer in question.answers]
    room = count - len(question.gold)
    shown = list(question.others[:room])
    free = [p for p in question.others if not contains(shown_text(p), question.answers)][:count]
    own = {passage_key(passage) for passage in (*asked.gold, *asked.others, *question.others)}
    for place in pool.search(asked.text, without=own):
        if len(shown) >= room and len(free) >= count:
            break
        if len(shown) < room:
            shown.append(pool.passages[place])
        if len(free) < count and not pool.holds(place, keys):
            free.append(pool.passages[place])
    rng.shuffle(shown)  # else the nearest distractor would always stand before the others
    for passage in question.gold:
        shown.insert(rng.randrange(len(shown) + 1), passage)
    rng.shuffle(free)
    with_gold = _example(key, question, shown, source) if question.gold and len(shown) == count else None
    without = _example(f"{key}-u", question, free, source) if len(free) == count else None
    return with_gold, without


def _example(key: str, question: Question, passages: Sequence[Passage], source: str) -> Example:
    return Example(
        id=key,
        question=question.asked.text,
        passages=tuple(passages),
        answers=(question.answers,),
        found=tuple((contains(passage.text, question.answers),) for passage in passages),
        style="prose",
        source=source,
    )


def entailed_variants(forms: Sequence[Variants], entails: Entails) -> tuple[list[Variants], int]:
    """The forms with `found` only where the judge agrees, without the questions that no passage answers any more, and
    how many those were."""
    pairs: dict[tuple[str, str], float] = {}
    for with_gold, _ in forms:
        pairs |= dict.fromkeys(_claims(with_gold).values(), 0.0) if with_gold else {}
    pairs = dict(zip(pairs, entails(list(pairs)), strict=True))
    judged: list[Variants] = []
    for with_gold, without in forms:
        if with_gold is None:
            judged.append((None, without))
            continue
        agreed = {place for place, pair in _claims(with_gold).items() if pairs[pair] > 0.5}
        if agreed:
            found = tuple((place in agreed,) for place in range(len(with_gold.passages)))
            judged.append((replace(with_gold, found=found), without))
    return judged, len(forms) - len(judged)


def _claims(example: Example) -> dict[int, tuple[str, str]]:
    """Premise and hypothesis of every passage that spells the answer, by its place."""
    hypothesis = f"{example.question} {example.answers[0][0]}"
    return {
        place: (f"Title: {passage.title}\n{passage.text}", hypothesis)
        for place, passage in enumerate(example.passages)
        if example.found[place][0]
    }
