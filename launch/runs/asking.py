"""How is a model that is not trained asked many questions? A few at a time, so that what was sampled can be kept."""

import hashlib
from collections.abc import Iterator, Sequence

from grpo.data.example import Example
from grpo.rollout.base import RolloutEngine, sample_groups
from grpo.types import Group, PromptRenderer, Sampling
from launch.config.recipe import Recipe

STARTED = -1
"""The version of the weights that an engine was started with."""


def sampled(
    rollout: RolloutEngine,
    left: Sequence[Example],
    render: PromptRenderer,
    recipe: Recipe,
    *,
    samples: int,
    stream: str,
) -> Iterator[list[Group]]:
    """The groups of `left` in order, as many at once as the engine decodes.

    The seed of each batch is made of `stream` and its first question, so that one that goes on after it was cut off
    draws no stream of random numbers twice.
    """
    s = recipe.sampling
    sampling = Sampling(group_size=samples, max_tokens=s.max_tokens, temperature=s.temperature, top_p=s.top_p)
    at_once = max(1, recipe.rollout.rows // samples)
    for start in range(0, len(left), at_once):
        batch = left[start : start + at_once]
        digest = hashlib.sha256(f"{stream} {batch[0].id}".encode()).digest()
        yield sample_groups(rollout, batch, render, sampling, seed=int.from_bytes(digest[:6]), version=STARTED)
