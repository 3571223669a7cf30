"""Which questions are kept: p(1 - p) by hand."""

import pytest
from rich.console import Console

from curriculum.datasets.world import make_world
from curriculum.difficulty import Tally, histogram, keep_hardest
from grpo.errors import UserError

WORLD = make_world(12, seed=3, unanswerable=0.5)


def tallies(*right, of=16):
    return {e.id: Tally(id=e.id, right=r, of=of) for e, r in zip(WORLD, right, strict=False)}


def test_the_variance_by_hand():
    assert [Tally(id="q", right=r, of=16).variance for r in (0, 1, 4, 8, 12, 16)] == [
        0, 15 / 256, 0.1875, 0.25, 0.1875, 0,
    ]  # fmt: skip


def test_the_most_varied_are_kept_in_their_order():
    asked, seen = WORLD[:7], tallies(0, 1, 8, 16, 4, 12, 15)
    kept = [WORLD.index(e) for e in keep_hardest(asked, seen, 3)]
    assert kept == [2, 4, 5]
    assert [WORLD.index(e) for e in keep_hardest(asked, seen, 2)] == [2, 4]  # of equals the earlier
    assert [WORLD.index(e) for e in keep_hardest(asked, seen, 100)] == [1, 2, 4, 5, 6]  # never those that teach nothing
    with pytest.raises(UserError, match="of 7 questions none is sometimes right"):
        keep_hardest(asked, tallies(0, 16, 0, 16, 0, 16, 0), 3)


def test_the_histogram_counts_every_question():
    console = Console(record=True, width=100)
    console.print(histogram(list(tallies(0, 0, 1, 2, 2, 2, of=2).values()), frozenset({WORLD[2].id}), width=3))
    rows = [line.split() for line in console.export_text().splitlines() if "/2" in line]
    assert rows == [
        ["0/2", "0.000", "2", "0", "██"],
        ["1/2", "0.250", "1", "1", "█"],
        ["2/2", "0.000", "3", "0", "███"],
    ]
