"""How is one grounded example made into another? Pure functions of examples; `found` stays true to the passages.

A recipe names them: `data.distractors`, `data.without_support`, `data.shuffle`. `transformed` does them in that order.

A passage keeps its row of `found` wherever it goes; for a passage that comes from elsewhere the row is looked up in its
text, by the same rule as in the builder.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from grpo.data.example import Example, Passage, with_unique_id
from grpo.data.text import contains
from grpo.errors import UserError


def apply_transforms(
    examples: Sequence[Example], *, distractors: int, without_support: bool, shuffle: bool, seed: int
) -> list[Example]:
    """The examples with `distractors` more passages each, from other questions, at random places; behind each its form
    `without_support`, where it has one; and all passages in a random order.

    Closed-book questions, which have no passages, are left alone. The same seed gives the same examples, whatever
    others there are but for the distractors. UserError as of the single transforms.
    """
    rngs = {name: random.Random(f"{seed}/{name}") for name in ("distractors", "pool")}
    pool = list(dict.fromkeys(passage for example in examples for passage in example.passages)) if distractors else []
    rngs["pool"].shuffle(pool)
    ids = {example.id for example in examples}
    made: list[Example] = []
    for given in examples:
        if not given.passages:
            made.append(given)
            continue
        example = given
        if distractors:
            start = rngs["pool"].randrange(len(pool))
            example = add_distractors(given, pool[start:] + pool[:start], distractors, rngs["distractors"])
        made.append(example)
        if without_support and example.answerable and not all(any(row) for row in example.found):
            made.append(with_unique_id(drop_support(example), ids))
    return [shuffle_passages(e, random.Random(f"{seed}/{e.id}")) if shuffle else e for e in made]


def shuffle_passages(example: Example, rng: random.Random) -> Example:
    """The same passages in another order, so that their place says nothing."""
    order = list(range(len(example.passages)))
    rng.shuffle(order)
    return _pick(example, order)


def drop_support(example: Example, *, suffix: str = "-u") -> Example:
    """Without every passage that holds an answer: a question to refuse. UserError where none would be left."""
    keep = [place for place, row in enumerate(example.found) if not any(row)]
    if not keep:
        raise UserError(f"example {example.id}: every passage holds an answer; expected one that holds none")
    return replace(_pick(example, keep), id=f"{example.id}{suffix}")


def add_distractors(example: Example, passages: Sequence[Passage], count: int, rng: random.Random) -> Example:
    """With the first `count` of `passages` that it has not yet and that hold no answer, at random places.

    UserError where there are fewer, and for claims, which are entailed rather than spelled: only a judge can say which
    passage holds one.
    """
    if example.style == "claims":
        raise UserError(f"example {example.id}: claims cannot be looked up in a passage; expected prose or list")
    there = {*example.passages}
    free: list[Passage] = []
    for passage in passages:
        if len(free) == count:
            break
        if passage not in there and not any(answers_in(passage, example.answers)):
            there.add(passage)
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


def answers_in(passage: Passage, answers: Sequence[tuple[str, ...]]) -> tuple[bool, ...]:
    """Which answers stand in a passage's title or text: stricter than `found`, since a title may give one away."""
    shown = f"{passage.title}\n{passage.text}"
    return tuple(contains(shown, spellings) for spellings in answers)


def _pick(example: Example, order: Sequence[int]) -> Example:
    return replace(
        example,
        passages=tuple(example.passages[place] for place in order),
        found=tuple(example.found[place] for place in order),
    )
