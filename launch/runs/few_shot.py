"""Demonstrations for a base model: questions with reference answers, put behind the system prompt.

As in trust-align, the seed makes a fixed choice for each style, half of it refusals.
"""

import random
from collections.abc import Mapping, Sequence

from grpo.data.example import STYLES, Example, Style
from grpo.data.prompts import user_message
from grpo.data.text import normalize
from grpo.errors import UserError
from launch.config.recipe import EvalConfig
from rewards.reference_answers import reference_completion

SEPARATOR = "\n\n\n"  # between demonstrations, as in trust-align's prompts


def choose_demonstrations(
    wanted: EvalConfig, shots: int, asked: Sequence[Example], pool: Sequence[Example]
) -> Mapping[Style, Sequence[Example]]:
    """`shots` examples of `pool` for each style that is asked, half of them refusals; none is itself asked.

    Closed-book questions get demonstrations only where eval.shots is a number. UserError where the pool has too few.
    """
    taken = {normalize(example.question) for example in asked}
    free = [example for example in pool if normalize(example.question) not in taken]
    styles = {example.style for example in asked}
    without = {"closed"} if wanted.shots == "auto" else set()
    return {
        style: [] if style in without else _draw(free, style, shots, seed=wanted.seed)
        for style in STYLES
        if style in styles
    }


def with_demonstrations(instruction: str, shown: Sequence[Example], *, reasoning: bool, refusal: str) -> str:
    """The instruction, and below it each question with its passages and reference answer."""
    form = {"reasoning": reasoning, "refusal": refusal}
    shots = [f"{user_message(example)}\nAnswer: {reference_completion(example, **form)}" for example in shown]
    return SEPARATOR.join([instruction, *shots])


def _draw(free: Sequence[Example], style: Style, shots: int, *, seed: int) -> list[Example]:
    rng = random.Random(f"{seed}/{style}")
    chosen: list[Example] = []
    refusals = shots // 2
    for count, answerable in ((shots - refusals, True), (refusals, False)):
        kind = [example for example in free if example.style == style and example.answerable is answerable]
        if len(kind) < count:
            raise UserError(
                f"eval.shots = {shots}: takes {count} {'' if answerable else 'un'}answerable {style} questions "
                f"besides those asked, and there are {len(kind)}; valid: --eval.shots=0, or --eval.shots_from=FILE"
            )
        chosen += rng.sample(kind, count)
    rng.shuffle(chosen)
    return chosen
