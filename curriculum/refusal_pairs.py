"""How is a model shown *when* to refuse? By the same question twice: once with its evidence, once without.

Refusals on other questions teach how often to refuse: the model cannot know whether it was the question or the
passages. Between twins only the passages differ.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from curriculum.datasets.world import held
from curriculum.mixing import spread_evenly
from grpo.data.example import Example
from grpo.data.text import normalize
from grpo.errors import UserError


def add_unanswerable_twins(
    examples: Sequence[Example], *, share: float, pool: Sequence[Example], seed: int
) -> list[Example]:
    """The examples, spread, and twins right behind some of them: a share of the whole, at most one half.

    A twin is the same question over the passages of another question in `pool`. A closed question, which needs none,
    gets no twin. UserError where `share` is above one half, or the pool has no passages for a question.
    """
    if share > 0.5:
        raise UserError(f"sft.unanswerable = {share}: every refusal is the twin of a question; valid: 0 to 0.5")
    rng = random.Random(f"{seed}/twins")
    per_example = share / (1 - share)
    made: list[Example] = []
    for place, example in enumerate(spread_evenly(examples, rng)):
        made.append(example)
        if example.style != "closed" and int((place + 1) * per_example + 1e-9) > int(place * per_example + 1e-9):
            made.append(unanswerable_twin(example, pool, rng))
    return made


def unanswerable_twin(example: Example, pool: Sequence[Example], rng: random.Random) -> Example:
    """The question over the passages of another one, which hold none of its answers.

    Preferred are passages under other titles that the question does not name either; where a pool has none, as when all
    its titles are alike, only the answers count. UserError where every passage of the pool holds one.
    """
    start = rng.randrange(len(pool))
    others = (*pool[start:], *pool[:start])
    others = [other for other in others if other.passages and other.question != example.question]
    for rule in (_apart, _unanswered):
        for other in others:
            if rule(example, other):
                return _over(example, other)
    raise UserError(f"no passages of another question leave {example.question!r} unanswered; more questions are needed")


def _over(example: Example, other: Example) -> Example:
    nothing = (False,) * len(example.answers)
    found = (nothing,) * len(other.passages)
    return replace(example, id=f"{example.id}/without", passages=other.passages, found=found)


def _unanswered(example: Example, other: Example) -> bool:
    return not any(any(held(example.style, example.answers, passage)) for passage in other.passages)


def _apart(example: Example, other: Example) -> bool:
    """Whether the other passages are not about the question's subject either, as far as titles tell."""
    titles = {passage.title for passage in example.passages}
    question = f" {normalize(example.question)} "
    about = (p.title in titles or f" {normalize(p.title)} " in question for p in other.passages if p.title)
    return not any(about) and _unanswered(example, other)
