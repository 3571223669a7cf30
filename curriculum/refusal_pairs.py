"""Refusal pairs: the same question with its evidence, and without it.

Refusals on other questions teach how often to refuse, since the reason could be the question or the passages. The two
members of a pair differ in the passages alone.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from curriculum.mixing import spread_evenly
from curriculum.transforms import answers_in
from grpo.data.example import Example
from grpo.data.text import normalize
from grpo.errors import UserError


def add_unanswerable_twins(
    examples: Sequence[Example], *, share: float, pool: Sequence[Example], seed: int
) -> list[Example]:
    """The examples in an even order, some followed by their unanswerable twin: a share of the whole, at most one half.

    A twin is the same question over the passages of another question in `pool`. Closed-book questions get no twin.
    UserError if `share` is above one half, or if the pool has no passages for a question.
    """
    if share > 0.5:
        raise UserError(f"sft.unanswerable = {share}: every refusal is the twin of a question; valid: 0 to 0.5")
    rng = random.Random(f"{seed}/twins")
    per_example = share / (1 - share)
    made: list[Example] = []
    for position, example in enumerate(spread_evenly(examples, rng)):
        made.append(example)
        if example.style != "closed" and int((position + 1) * per_example + 1e-9) > int(position * per_example + 1e-9):
            made.append(unanswerable_twin(example, pool, rng))
    return made


def unanswerable_twin(example: Example, pool: Sequence[Example], rng: random.Random) -> Example:
    """The question over the passages of another one, which hold none of its answers.

    Passages whose titles are neither titles of its own nor named in the question are preferred. If there are none, as
    when all titles are alike, only the answers count. UserError if every passage of the pool holds one.
    """
    start = rng.randrange(len(pool))
    others = (*pool[start:], *pool[:start])
    others = [other for other in others if other.passages and other.question != example.question]
    for is_usable in (_is_unrelated, _holds_no_answer):
        for other in others:
            if is_usable(example, other):
                found = ((False,) * len(example.answers),) * len(other.passages)
                return replace(example, id=f"{example.id}/without", passages=other.passages, found=found)
    raise UserError(f"no passages of another question leave {example.question!r} unanswered; more questions are needed")


def _holds_no_answer(example: Example, other: Example) -> bool:
    return not any(any(answers_in(example.style, example.answers, passage)) for passage in other.passages)


def _is_unrelated(example: Example, other: Example) -> bool:
    """Whether the other passages, as far as titles tell, are not about the subject of the question either."""
    titles = {passage.title for passage in example.passages}
    question = f" {normalize(example.question)} "
    about = (p.title in titles or f" {normalize(p.title)} " in question for p in other.passages if p.title)
    return not any(about) and _holds_no_answer(example, other)
