"""Which groups are learned from: dropped, refilled up to the cap, the same however many ranks share them."""

from dataclasses import replace

import pytest

from grpo.dynamic_sampling import Dynamic, living, taught, to_ask
from grpo.types import Completion, Group, Score
from tests.helpers.toy import example

WROTE = Completion(text="", token_ids=(1,), logprobs=(0.0,), finish="stop", version=0)


def group(number, *totals):
    scores = tuple(Score(total=total, parts={}) for total in totals)
    return Group(example=example(number), prompt_ids=(1,), completions=(WROTE,) * len(totals), scores=scores)


def groups(pattern, start=0):
    """One group per letter: "x" is dead, "o" is alive."""
    return [group(start + n, 1.0, 0.0 if letter == "o" else 1.0) for n, letter in enumerate(pattern)]


def numbers(some):
    return [int(g.example.id.removeprefix("toy-")) for g in some]


def ask_enough(pattern, dynamic, *, count, world=1):
    """(the groups of a step, how many were asked each time) from a stream of dead and living groups."""
    stream, found, asked = groups(pattern), [], []
    while number := to_ask(found, dynamic, count=count, world=world):
        found = stream[: len(found) + number]
        asked.append(number)
    return found, asked


def test_dead_is_what_the_advantage_says():
    assert living([group(0, 1.0, 1.0), group(1, 1.0, 1.0 + 1e-7), group(2, 1.0, 0.9)]) == [False, False, True]
    assert living([]) == []


@pytest.mark.parametrize("mode", ["off", "drop"])
def test_without_refill_nothing_is_asked_again(mode):
    found, asked = ask_enough("xxxx", Dynamic(mode=mode), count=4)
    assert numbers(found) == [0, 1, 2, 3]
    assert asked == [4]


def test_refill_asks_for_exactly_what_is_missing():
    found, asked = ask_enough("xoxo" + "xo" + "o" + "oooo", Dynamic(mode="refill", cap=3), count=4)
    assert asked == [4, 2, 1]
    assert len(found) == 7
    assert numbers(taught(found, Dynamic(mode="refill"), count=4)) == [1, 3, 5, 6]


def test_the_cap_ends_a_refill_and_dead_groups_fill_up():
    found, asked = ask_enough("x" * 5 + "o" + "x" * 100, Dynamic(mode="refill", cap=3), count=4)
    assert sum(asked) == len(found) == 12
    assert asked == [4, 4, 3, 1]
    assert numbers(taught(found, Dynamic(mode="refill"), count=4)) == [0, 1, 2, 5]


def test_every_rank_asks_equally_much():
    found, asked = ask_enough("xooo" + "xx" + "ox" + "oo", Dynamic(mode="refill", cap=3), count=4, world=2)
    assert asked == [4, 2, 2]  # one group is missing, and two ranks ask for it
    assert numbers(taught(found, Dynamic(mode="refill"), count=4, world=2)) == [1, 2, 3, 6]


@pytest.mark.parametrize(
    ("pattern", "world", "parts", "kept"),
    [
        ("xoxo", 1, 1, [1, 3]),
        ("xxxx", 1, 1, [0]),  # a batch cannot be empty; nothing in this one teaches, and no step is taken
        ("xoxx", 2, 1, [0, 1]),
        ("ooox", 2, 1, [0, 1, 2]),  # as on one rank: a dead group more would shorten the step
        ("oxxx", 1, 2, [0, 1]),  # two updates need a group each
        ("oxxxxxxx", 2, 2, [0, 1, 2, 3]),
    ],
)
def test_drop_leaves_the_living_groups(pattern, world, parts, kept):
    assert numbers(taught(groups(pattern), Dynamic(mode="drop"), count=len(pattern), parts=parts, world=world)) == kept


def test_off_keeps_everything():
    some = groups("xoxo")
    assert taught(some, Dynamic(), count=4, parts=2, world=2) == some
    assert taught([replace(g) for g in some], Dynamic(), count=4) == some
