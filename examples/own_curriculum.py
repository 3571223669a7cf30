"""A curriculum of your own: `python examples/own_curriculum.py`.

A recipe names a function as "module:function". The function gets the training questions and the run's seed, and returns
an object with the four methods below. Equal seeds must give equal questions, on every rank and after a resume: use no
clock and no global random numbers.

    [curriculum]
    order = "examples.own_curriculum:short_first"
"""

import random
import sys
from math import isfinite
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

from curriculum.datasets.world import make_world
from curriculum.samplers import CurriculumConfig, make_curriculum
from grpo.data.example import Example
from grpo.types import Group


class ShortFirst:
    """The questions with the fewest words in their passages first; more are opened while rewards rise."""

    def __init__(self, examples: list[Example], *, seed: int) -> None:
        self._examples = sorted(examples, key=lambda e: (sum(len(p.text.split()) for p in e.passages), e.id))
        self._seed = seed
        self._open = max(1, len(examples) // 4)  # number of open questions
        self._batches = 0
        self._best = float("-inf")

    def next_batch(self, count: int) -> list[Example]:
        """The next questions, drawn by a generator that depends only on the seed and the number of the batch."""
        rng = random.Random(f"{self._seed}/{self._batches}")
        self._batches += 1
        return rng.choices(self._examples[: self._open], k=count)

    def observe(self, groups: list[Group]) -> None:
        """Open an eighth more questions whenever the mean reward is the best so far."""
        totals = [score.total for group in groups for score in group.scores]
        if totals and sum(totals) / len(totals) > self._best:
            self._best = sum(totals) / len(totals)
            self._open = min(len(self._examples), self._open + max(1, len(self._examples) // 8))

    def state_dict(self) -> dict[str, Any]:
        """The whole state, as JSON can hold it."""
        return {"open": self._open, "batches": self._batches, "best": self._best if isfinite(self._best) else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._open, self._batches = state["open"], state["batches"]
        self._best = float("-inf") if state["best"] is None else state["best"]


def short_first(examples: list[Example], *, seed: int) -> ShortFirst:
    """The function that the recipe names."""
    return ShortFirst(examples, seed=seed)


def main() -> None:
    """Draw questions of the fictional world, stop, and resume from the saved state."""
    world = make_world(40, seed=0, unanswerable=0.0)
    settings = CurriculumConfig(order="examples.own_curriculum:short_first")
    first = make_curriculum(settings, world, seed=1)
    for step in range(2):
        print(f"step {step}  {' '.join(example.id for example in first.next_batch(4))}")
    state = first.state_dict()
    print(f"state   {state}")
    again = make_curriculum(settings, world, seed=1)
    again.load_state_dict(state)
    for name, curriculum in (("goes on", first), ("resumed", again)):
        print(f"{name} {' '.join(example.id for example in curriculum.next_batch(4))}")


if __name__ == "__main__":
    main()
