"""How is a model shown *when* to refuse? By the same question twice: once with its evidence, once without.

Refusals on other questions teach how often to refuse: the model cannot know whether it was the question or the
passages. Between twins only the passages differ.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from curriculum.sampler import spread
from curriculum.world import held
from grpo.text import normalize
from grpo.types import Example, InputError


def with_twins(examples: Sequence[Example], *, share: float, pool: Sequence[Example], seed: int) -> list[Example]:
    """The examples, spread, and twins right behind some of them: a share of the whole, at most one half.

    A twin is the same question over the passages of another question in `pool`. InputError where `share` is above one
    half, or the pool has no passages for a question.
    """
    if share > 0.5:
        raise InputError(f"warmup.unanswerable = {share}: every refusal is the twin of a question; valid: 0 to 0.5")
    rng = random.Random(f"{seed}/twins")
    per_example = share / (1 - share)
    made: list[Example] = []
    for place, example in enumerate(spread(examples, rng)):
        made.append(example)
        if int((place + 1) * per_example + 1e-9) > int(place * per_example + 1e-9):
            made.append(twin(example, pool, rng))
    return made


def twin(example: Example, pool: Sequence[Example], rng: random.Random) -> Example:
    """The question over passages that neither answer it nor have its subject for a title."""
    start = rng.randrange(len(pool))
    for other in (*pool[start:], *pool[:start]):
        if other.passages and not _touches(example, other):
            nothing = (False,) * len(example.answers)
            return replace(
                example,
                id=f"{example.id}/without",
                passages=other.passages,
                found=(nothing,) * len(other.passages),
            )
    raise InputError(
        f"no passages of another question leave {example.question!r} unanswered; more questions are needed"
    )


def _touches(example: Example, other: Example) -> bool:
    titles = {passage.title for passage in example.passages}
    question = f" {normalize(example.question)} "
    return any(
        passage.title in titles
        or f" {normalize(passage.title)} " in question
        or any(held(example.style, example.answers, passage))
        for passage in other.passages
    )
