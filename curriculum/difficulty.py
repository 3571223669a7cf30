"""Which questions can teach? Those that the start model sometimes gets right: the largest p(1 - p) over 16 samples.

GRPO learns from differences within a group; a question that is always or never right makes none ("GRPO for Factuality",
round 2: each question 16 times with the original model, the 2,500 most varied kept). The variance of a right-or-wrong
outcome, p(1 - p), is our reading of "most varied".
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from grpo.data.example import Example
from grpo.errors import UserError
from grpo.kept import Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How a question went: `Tally(id="nq-000017", right=5, of=16)`."""

    id: str  # of the example, or its name in a cache
    right: int
    of: int

    @property
    def variance(self) -> float:
        """p(1 - p), at most 0.25.

        >>> [Tally(id="q", right=right, of=16).variance for right in (8, 4, 16)]
        [0.25, 0.1875, 0.0]
        """
        return self.right * (self.of - self.right) / self.of**2


def keep_hardest(examples: Sequence[Example], tallies: Mapping[str, Tally], count: int) -> list[Example]:
    """The `count` examples with the largest p(1 - p), in their given order; of equals the earlier ones.

    Those that went all alike teach nothing and are never kept, so that there may be fewer. UserError where all are so.
    """
    ranked = sorted(range(len(examples)), key=lambda place: -tallies[examples[place].id].variance)
    kept = [place for place in ranked[:count] if tallies[examples[place].id].variance > 0]
    if not kept:
        raise UserError(
            f"of {len(examples)} questions none is sometimes right and sometimes wrong; expected a stronger start "
            "model, easier questions, or more samples"
        )
    return [examples[place] for place in sorted(kept)]


def histogram(tallies: Sequence[Tally], kept: frozenset[str] = frozenset(), *, width: int = 40) -> Table:
    """How many questions were right so many times, a row each, as bars; `kept` are counted beside them."""
    of = max(tally.of for tally in tallies)
    counts = [[tally for tally in tallies if tally.right == right] for right in range(of + 1)]
    most = max(map(len, counts))
    table = Table(title=f"{len(tallies)} questions, {of} samples each", title_justify="left", box=box.SIMPLE)
    for column in ("right", "p(1 - p)", "questions", "kept", ""):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for right, same in enumerate(counts):
        variance = Tally(id="", right=right, of=of).variance
        chosen = sum(tally.id in kept for tally in same)
        bar = "█" * -(-width * len(same) // most)
        table.add_row(f"{right}/{of}", f"{variance:.3f}", str(len(same)), str(chosen), bar)
    return table


def cache_key(example: Example) -> str:
    """The name of an example in a cache: its id, and a digest of all of it, since ids of other data may be the same."""
    return f"{example.id} {hashlib.sha256(repr(example).encode()).hexdigest()[:12]}"


def _tally(id: str, right: int, of: int) -> Tally:  # noqa: A002 (as in the file)
    if not 0 <= right <= of or of < 1 or not isinstance(right + of, int):
        raise ValueError(f"{right} of {of}")
    return Tally(id=id, right=right, of=of)


class Cache:
    """Tallies on disk, by name: `grpo.kept.Kept` of what a tally has."""

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        """UserError where the file is of another model, other sampling, or no cache at all."""
        self._kept = Kept(path, made_with, what="cache of this filter", instead="give another --cache")
        self.tallies: dict[str, Tally] = {}
        try:
            for row in self._kept.rows:
                self.tallies[row["id"]] = _tally(row["id"], row["right"], row["of"])
        except (KeyError, TypeError, ValueError):
            raise self._kept.not_ours() from None

    def add(self, tallies: Sequence[Tally]) -> None:
        """Append, and be sure that it is on disk: what was sampled once should not be sampled again."""
        self._kept.add([{"id": t.id, "right": t.right, "of": t.of} for t in tallies])
        self.tallies |= {tally.id: tally for tally in tallies}
