"""How is an untrained model shown what is wanted? By questions of its kind with their gold answers, put in front.

As in the field (trust-align): a fixed choice by seed, half of it refusals, the same in front of every question of a
style.
"""

import random
from collections.abc import Mapping, Sequence

from curriculum.reference_answers import reference_completion
from grpo.data.example import STYLES, Example, Style
from grpo.data.prompts import user_message
from grpo.data.text import normalize
from grpo.errors import UserError
from launch.config.recipe import Recipe

Shown = Mapping[Style, Sequence[Example]]  # a question is shown those of its own style
APART = "\n\n\n"  # between demonstrations, as in the field's prompts


def choose_demonstrations(recipe: Recipe, asked: Sequence[Example], pool: Sequence[Example]) -> Shown:
    """`recipe.shots` examples of `pool` for each style that is asked, half of them refusals; no question is one that is
    asked. The same seed chooses the same ones for every model. UserError where the pool has too few."""
    taken = {normalize(example.question) for example in asked}
    free = [example for example in pool if normalize(example.question) not in taken]
    styles = {example.style for example in asked}
    return {style: _draw(free, style, recipe) for style in STYLES if style in styles}


def with_demonstrations(instruction: str, shown: Sequence[Example], *, reasoning: bool) -> str:
    """The instruction, and below it each question with its documents and gold answer; for reasoning models in tags."""
    shots = [
        f"{user_message(example)}\nAnswer: {reference_completion(example, reasoning=reasoning)}" for example in shown
    ]
    return APART.join([instruction, *shots])


def _draw(free: Sequence[Example], style: Style, recipe: Recipe) -> list[Example]:
    rng = random.Random(f"{recipe.eval.seed}/{style}")
    chosen: list[Example] = []
    refusals = recipe.shots // 2
    for count, answerable in ((recipe.shots - refusals, True), (refusals, False)):
        kind = [example for example in free if example.style == style and example.answerable is answerable]
        if len(kind) < count:
            raise UserError(
                f"eval.shots = {recipe.shots}: takes {count} {'' if answerable else 'un'}answerable {style} questions "
                f"besides those asked, and there are {len(kind)}; valid: --eval.shots=0, or --eval.shots_from=FILE"
            )
        chosen += rng.sample(kind, count)
    rng.shuffle(chosen)
    return chosen
