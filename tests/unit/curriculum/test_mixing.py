"""The mixture of questions, and the order of epochs."""

from dataclasses import replace

import pytest

from curriculum.datasets.world import make_world
from curriculum.mixing import first_supporting_passage, mix
from curriculum.samplers import EpochSampler
from grpo.errors import UserError

WORLD = make_world(60, seed=3, unanswerable=0.5)


def ids(examples):
    return [example.id for example in examples]


def test_an_epoch_asks_every_question_once():
    curriculum = EpochSampler(WORLD[:10], seed=1)
    epochs = [ids(curriculum.next_batch(10)) for _ in range(3)]
    assert all(sorted(epoch) == sorted(ids(WORLD[:10])) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_every_stretch_has_the_answer_in_every_place():
    """Of any nine questions in a row each place holds its share of the answers, give or take two."""
    answerable = make_world(400, seed=5, unanswerable=0.0)
    stream = EpochSampler(answerable, seed=0).next_batch(400)
    places = [first_supporting_passage(example) for example in stream]
    shares = [places.count(n) / 400 for n in (1, 2, 3)]
    for start in range(390):
        for number, share in zip((1, 2, 3), shares, strict=True):
            assert abs(places[start : start + 9].count(number) - 9 * share) < 2.1


def test_the_stream_depends_on_the_seed_and_goes_on_after_a_break():
    one, two, other = EpochSampler(WORLD, seed=1), EpochSampler(WORLD, seed=1), EpochSampler(WORLD, seed=2)
    first = ids(one.next_batch(50))
    assert ids(two.next_batch(50)) == first != ids(other.next_batch(50))
    late = EpochSampler(WORLD, seed=1)
    late.load_state_dict(one.state_dict())
    assert ids(late.next_batch(40)) == ids(one.next_batch(40))  # over the end of the epoch


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_mixture_is_hit(share):
    chosen = mix(WORLD, count=20, unanswerable=share, seed=0, key="data.unanswerable")
    assert len(chosen) == 20
    assert sum(not example.answerable for example in chosen) == round(20 * share)


def test_where_a_kind_runs_short_the_share_holds():
    few = [e for e in WORLD if e.answerable][:20] + [e for e in WORLD if not e.answerable][:3]
    chosen = mix(few, count=20, unanswerable=0.5, seed=0, key="data.unanswerable")
    assert len(chosen) == 6
    assert sum(not example.answerable for example in chosen) == 3


def test_a_kind_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"data.unanswerable = 0.5: .* 5 unanswerable questions of 10"):
        mix([e for e in WORLD if e.answerable], count=10, unanswerable=0.5, seed=0, key="data.unanswerable")
    with pytest.raises(UserError, match="no training questions"):
        EpochSampler([], seed=0)


def sourced(**counts):
    """Examples of each source, half of them unanswerable."""
    found = []
    for source, count in counts.items():
        half = {kind: [e for e in WORLD if e.answerable is kind][:count] for kind in (True, False)}
        found += [replace(e, id=f"{source}-{e.id}", source=source) for kind in half for e in half[kind]]
    return found


@pytest.mark.parametrize(
    ("mixture", "counts", "expected"),
    [
        ({}, {"a": 20, "b": 20, "c": 20}, {"a": 4, "b": 4, "c": 4}),
        ({"a": 2.0, "b": 1.0}, {"a": 20, "b": 20, "c": 20}, {"a": 8, "b": 4}),
        ({"a": 4.0, "b": 1.0, "c": 1.0}, {"a": 20, "b": 20, "c": 20}, {"a": 8, "b": 2, "c": 2}),
        ({}, {"a": 20, "b": 1}, {"a": 10, "b": 2}),  # evenly while they last
        ({"a": 1.0, "b": 1.0}, {"a": 20, "b": 1}, {"a": 2, "b": 2}),  # a mixture holds, with fewer in all
    ],
)
def test_sources_are_mixed_as_asked(mixture, counts, expected):
    chosen = mix(sourced(**counts), count=12, unanswerable=0.5, seed=0, key="data.unanswerable", mixture=mixture)
    found = {source: sum(e.source == source for e in chosen) for source in counts}
    assert {source: count for source, count in found.items() if count} == expected
    assert sum(not e.answerable for e in chosen) * 2 == len(chosen)


def test_a_mixture_of_what_is_not_there():
    with pytest.raises(UserError, match=r"data.mixture names asqa; the data has the sources a, b"):
        mix(sourced(a=3, b=3), count=4, unanswerable=0.5, seed=0, key="k", mixture={"asqa": 1.0, "a": 1.0})
    only = [e for e in sourced(a=3, b=3) if e.source == "a" or e.answerable]
    with pytest.raises(UserError, match="takes 2 unanswerable questions of 4, and the data has none of each source"):
        mix(only, count=4, unanswerable=0.5, seed=0, key="k", mixture={"a": 1.0, "b": 1.0})
