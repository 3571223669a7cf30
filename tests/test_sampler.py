"""Which questions come, in what order, in what mixture."""

import pytest

from curriculum.sampler import Epochs, first_holder, mix
from curriculum.world import make_world
from grpo.types import InputError

WORLD = make_world(60, seed=3, unanswerable=0.5)


def ids(examples):
    return [example.id for example in examples]


def test_an_epoch_asks_every_question_once():
    curriculum = Epochs(WORLD[:10], seed=1)
    epochs = [ids(curriculum.next_batch(10)) for _ in range(3)]
    assert all(sorted(epoch) == sorted(ids(WORLD[:10])) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_every_stretch_has_the_answer_in_every_place():
    """Of any nine questions in a row each place holds its share of the answers, give or take two."""
    answerable = make_world(400, seed=5, unanswerable=0.0)
    stream = Epochs(answerable, seed=0).next_batch(400)
    places = [first_holder(example) for example in stream]
    shares = [places.count(n) / 400 for n in (1, 2, 3)]
    for start in range(390):
        for number, share in zip((1, 2, 3), shares, strict=True):
            assert abs(places[start : start + 9].count(number) - 9 * share) < 2.1


def test_the_stream_depends_on_the_seed_and_goes_on_after_a_break():
    one, two, other = Epochs(WORLD, seed=1), Epochs(WORLD, seed=1), Epochs(WORLD, seed=2)
    first = ids(one.next_batch(50))
    assert ids(two.next_batch(50)) == first != ids(other.next_batch(50))
    late = Epochs(WORLD, seed=1)
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
    with pytest.raises(InputError, match=r"data.unanswerable = 0.5: .* 5 unanswerable questions of 10"):
        mix([e for e in WORLD if e.answerable], count=10, unanswerable=0.5, seed=0, key="data.unanswerable")
    with pytest.raises(InputError, match="no training questions"):
        Epochs([], seed=0)
