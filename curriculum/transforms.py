"""Transforms of examples. They are pure functions, and `found` stays true to the passages.

A recipe names three: `data.distractors`, `data.without_support`, `data.shuffle`; `apply_transforms` applies them in
that order. A passage keeps its row of `found`; for a new passage the answers are looked up in its text.
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from curriculum.retrieval import rank, shown_text
from grpo.data.example import Example, Passage, Style, with_unique_id
from grpo.data.text import contains, spelled
from grpo.errors import UserError
from rewards.judges.lexical import LexicalJudge


def answers_in(style: Style, answers: Sequence[tuple[str, ...]], passage: Passage) -> tuple[bool, ...]:
    """Which answers the title or text of a passage holds: as whole words, claims unless the lexical judge denies it.

    This is stricter than `Example.found`, which ignores titles.
    """
    shown = shown_text(passage)
    if style == "claims":
        return tuple(chance >= 0.5 for chance in LexicalJudge().entails([(shown, claim) for claim, *_ in answers]))
    return spelled(shown, answers)


def apply_transforms(
    examples: Sequence[Example], *, distractors: int, without_support: bool, shuffle: bool, seed: int
) -> list[Example]:
    """The examples with `distractors` more passages each, from other questions, at random positions; each followed by
    its variant `without_support`, if it has one; and all passages in a random order.

    Closed-book questions, which have no passages, stay as they are. Equal seeds give equal examples. UserError if a
    transform cannot be applied.
    """
    rng, pool_rng = random.Random(f"{seed}/distractors"), random.Random(f"{seed}/pool")
    pool = list(dict.fromkeys(passage for example in examples for passage in example.passages)) if distractors else []
    pool_rng.shuffle(pool)
    ids = {example.id for example in examples}
    made: list[Example] = []
    for given in examples:
        example = given
        if distractors and given.passages:
            start = pool_rng.randrange(len(pool))
            example = add_distractors(given, pool[start:] + pool[:start], distractors, rng)
        made.append(example)
        if without_support and example.answerable and not all(any(row) for row in example.found):
            made.append(with_unique_id(drop_support(example), ids))
    return [shuffle_passages(e, random.Random(f"{seed}/{e.id}")) for e in made] if shuffle else made


def shuffle_passages(example: Example, rng: random.Random) -> Example:
    """The same passages in another order, so that a position says nothing."""
    order = list(range(len(example.passages)))
    rng.shuffle(order)
    return _pick(example, order)


def drop_support(example: Example, *, suffix: str = "-u") -> Example:
    """The example without the passages that hold an answer: a question to refuse. UserError if none would be left."""
    keep = [position for position, row in enumerate(example.found) if not any(row)]
    if not keep:
        raise UserError(f"example {example.id}: every passage holds an answer; expected one that holds none")
    return replace(_pick(example, keep), id=f"{example.id}{suffix}")


def add_distractors(example: Example, passages: Sequence[Passage], count: int, rng: random.Random) -> Example:
    """The example with the first `count` new passages that hold no answer, at random positions.

    UserError if there are fewer, and for claims: only a judge can say which passage entails one.
    """
    if example.style == "claims":
        raise UserError(f"example {example.id}: claims cannot be looked up in a passage; expected prose or list")
    present = {*example.passages}
    free: list[Passage] = []
    for passage in passages:
        if len(free) == count:
            break
        if passage not in present and not any(answers_in(example.style, example.answers, passage)):
            present.add(passage)
            free.append(passage)
    if len(free) < count:
        raise UserError(
            f"example {example.id}: {count} distractors were asked for, and {len(free)} passages hold no answer; "
            "expected a larger pool, or fewer distractors"
        )
    pairs = list(zip(example.passages, example.found, strict=True))
    for passage in free:
        pairs.insert(rng.randint(0, len(pairs)), (passage, (False,) * len(example.answers)))
    return replace(example, passages=tuple(p for p, _ in pairs), found=tuple(row for _, row in pairs))


def fit_passages(example: Example, fits: Callable[[Example], bool]) -> Example | None:
    """The example with as many of its passages as fit, in their order; None if it could not be answered as before.

    Passages with an answer stay longest, then those that BM25 ranks highest for the question.
    """
    if fits(example):
        return example
    useful = [any(row) for row in example.found]
    order = rank(example.question, example.passages, useful, random.Random(example.id)) if example.passages else []
    most = bisect_left(range(1, len(order)), True, key=lambda count: not fits(_pick(example, sorted(order[:count]))))
    cut = _pick(example, sorted(order[:most]))
    return cut if most and cut.answerable == example.answerable else None


def truncate_passage(
    passage: Passage, answers: tuple[str, ...], max_words: int | None, rng: random.Random
) -> Passage | None:
    """`max_words` words of the passage in a row, with its answer anywhere among them; None if the answer is longer.

    A passage that holds no answer is cut anywhere; None for `max_words` cuts nothing.
    """
    words = passage.text.split()
    if max_words is None or len(words) <= max_words:
        return passage
    start, end = _answer_span(words, answers) if contains(passage.text, answers) else (0, 0)
    if end - start > max_words:
        return None
    low, high = (max(0, end - max_words), min(start, len(words) - max_words)) if end else (0, len(words) - max_words)
    first = rng.randint(low, high)
    return Passage(title=passage.title, text=" ".join(words[first : first + max_words]))


def _answer_span(words: Sequence[str], answers: tuple[str, ...]) -> tuple[int, int]:
    """The smallest range of words around the first position of an answer, which must be somewhere in `words`."""
    size = len(words)
    end = bisect_left(range(size), True, key=lambda last: contains(" ".join(words[: last + 1]), answers)) + 1
    back = bisect_left(range(1, end), True, key=lambda count: contains(" ".join(words[end - count : end]), answers)) + 1
    return end - back, end


def _pick(example: Example, order: Sequence[int]) -> Example:
    return replace(
        example,
        passages=tuple(example.passages[position] for position in order),
        found=tuple(example.found[position] for position in order),
    )
