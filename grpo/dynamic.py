"""Which groups are learned from, when some teach nothing? Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2).

A dead group scored all alike: its advantage is 0. `off` keeps it, with its tokens in the counts that the loss is
averaged by; `drop` leaves it out of both; `refill` asks further questions in its place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from grpo.advantages import alive
from grpo.types import Group

Mode = Literal["off", "drop", "refill"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamic:
    """What becomes of dead groups: `Dynamic(mode="refill", cap=3)`."""

    mode: Mode = "off"
    cap: int = 3  # refill asks at most so many times the step's number of questions


def ask_enough(ask: Callable[[int, int], list[Group]], dynamic: Dynamic, *, count: int, world: int = 1) -> list[Group]:
    """The scored groups of a step, of all ranks, dead ones included, in the order in which they were asked.

    `ask(number, attempt)` asks so many questions over all ranks; `number` is always a multiple of `world`, as `count`
    is, so that every rank has the same share of each attempt. Every rank calls this with the same result.
    """
    asked, attempt = ask(count, 0), 0
    while dynamic.mode == "refill":
        missing = count - sum(living(asked))
        room = dynamic.cap * count - len(asked)
        more = min(-(-missing // world), room // world) * world
        if more <= 0:
            break
        attempt += 1
        asked = asked + ask(more, attempt)
    return asked


def taught(groups: Sequence[Group], dynamic: Dynamic, *, count: int, parts: int = 1, world: int = 1) -> list[Group]:
    """Those of a step's groups that the update sees, in order; always a multiple of `world`, so that shares are equal.

    off      all of them
    drop     the living ones; dead ones make up what is missing to the next multiple of `world`, and to one for each of
             the `parts` that every rank makes of its share
    refill   `count`: the first so many living ones; dead ones make up what the cap left missing
    """
    if dynamic.mode == "off":
        return list(groups)
    teaches = living(groups)
    kept = [place for place, lives in enumerate(teaches) if lives][:count]
    size = count if dynamic.mode == "refill" else max(parts, -(-len(kept) // world)) * world
    spare = [place for place, lives in enumerate(teaches) if not lives][: size - len(kept)]
    return [groups[place] for place in sorted(kept + spare)]


def living(groups: Sequence[Group]) -> list[bool]:
    """Whether each group can teach: its scores are not all alike (`grpo.advantages.alive`)."""
    if not groups:
        return []
    totals_PG = [[score.total for score in group.scores] for group in groups]
    return alive(torch.tensor(totals_PG, dtype=torch.float64)).tolist()
