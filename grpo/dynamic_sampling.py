"""Which groups are learned from, when some teach nothing? Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2).

A dead group scored all alike: its advantage is 0. `off` keeps it, with its tokens in the counts that the loss is
averaged by; `drop` leaves it out of both; `refill` asks further questions in its place.
"""

from collections.abc import Sequence
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


def to_ask(asked: Sequence[Group], dynamic: Dynamic, *, count: int, world: int = 1) -> int:
    """How many questions a step asks next, over all ranks, when these scored groups of all ranks are there; 0: enough.

    `count` at first, and under refill what is missing of living groups, as far as the cap goes. Always a multiple of
    `world`, as `count` is, so that every rank has the same share; and the same on every rank.
    """
    if not asked:
        return count
    if dynamic.mode != "refill":
        return 0
    missing = count - sum(living(asked))
    room = dynamic.cap * count - len(asked)
    return max(0, min(-(-missing // world), room // world)) * world


def taught(groups: Sequence[Group], dynamic: Dynamic, *, count: int, parts: int = 1, world: int = 1) -> list[Group]:
    """Those of a step's groups that the update sees, in order, however they are then shared out over ranks.

    off      all of them
    drop     the living ones; with fewer than `parts` times `world` of them, dead ones make up what is missing
    refill   `count`: the first so many living ones; dead ones make up what the cap left missing
    """
    if dynamic.mode == "off":
        return list(groups)
    teaches = living(groups)
    kept = [place for place, lives in enumerate(teaches) if lives][:count]
    size = count if dynamic.mode == "refill" else max(parts * world, len(kept))
    spare = [place for place, lives in enumerate(teaches) if not lives][: size - len(kept)]
    return [groups[place] for place in sorted(kept + spare)]


def living(groups: Sequence[Group]) -> list[bool]:
    """Whether each group can teach: its scores are not all alike (`grpo.advantages.alive`)."""
    if not groups:
        return []
    totals_PG = [[score.total for score in group.scores] for group in groups]
    return alive(torch.tensor(totals_PG, dtype=torch.float64)).tolist()
