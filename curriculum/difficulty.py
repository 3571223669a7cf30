"""Difficulty filter: the questions with the largest p(1 - p), p being the share of right samples of the start model.

A question that is always or never right gives GRPO no advantage. "GRPO for Factuality", round 2, samples each question
16 times with the original model and keeps the 2,500 most varied; p(1 - p) is our reading of "most varied".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from grpo.data.example import Example
from grpo.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The right samples of a question: `Tally(id="nq-000017", right=5, of=16)`."""

    id: str
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
    """The `count` examples with the largest p(1 - p), in their given order; of equal ones the earlier.

    Examples with p = 0 or 1 are never kept. UserError where no other is left.
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
    """A bar for each number of right samples, with the count of questions and of those among `kept`."""
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
