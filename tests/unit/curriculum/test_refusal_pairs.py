"""The same question with its evidence and without."""

import random
from dataclasses import replace

import pytest

from curriculum.datasets.world import make_world
from curriculum.refusal_pairs import add_unanswerable_twins, unanswerable_twin
from curriculum.samplers import EpochSampler
from curriculum.transforms import answers_in
from grpo.data.text import REFUSAL, normalize
from grpo.errors import UserError
from rewards.reference_answers import reference_answer

POOL = make_world(300, seed=4, unanswerable=0.0)


def test_a_twin_asks_the_same_of_passages_that_know_nothing_of_it():
    rng = random.Random(0)
    for example in POOL:
        other = unanswerable_twin(example, POOL, rng)
        assert (other.question, other.answers, other.style) == (example.question, example.answers, example.style)
        assert not other.answerable
        assert reference_answer(other) == REFUSAL
        assert len(other.passages) == len(other.found) == 3
        for passage in other.passages:
            assert not any(answers_in(example.style, example.answers, passage))
            assert f" {normalize(passage.title)} " not in f" {normalize(example.question)} "


@pytest.mark.parametrize(("share", "twins"), [(0.0, 0), (0.2, 75), (1 / 3, 150), (0.5, 300)])
def test_each_twin_follows_its_question_and_the_share_is_met(share: float, twins: int):
    made = add_unanswerable_twins(POOL, share=share, pool=POOL, seed=1)
    assert len(made) == 300 + twins
    refused = [place for place, example in enumerate(made) if not example.answerable]
    assert len(refused) == twins
    assert all(made[place].question == made[place - 1].question for place in refused)
    assert all(made[place - 1].answerable for place in refused)
    assert len({example.id for example in made}) == len(made)


def test_the_order_is_the_seeds_and_is_kept():
    made = add_unanswerable_twins(POOL[:20], share=0.5, pool=POOL, seed=1)
    assert made == add_unanswerable_twins(POOL[:20], share=0.5, pool=POOL, seed=1)
    assert made != add_unanswerable_twins(POOL[:20], share=0.5, pool=POOL, seed=2)
    stream = EpochSampler(made, seed=0, in_order=True)
    assert stream.next_batch(50) == [*made, *made[:10]]


@pytest.mark.parametrize("title", ["", "Part of a manual"])
def test_where_titles_tell_nothing_only_the_answers_count(title: str):
    alike = [
        replace(example, passages=tuple(replace(passage, title=title) for passage in example.passages))
        for example in POOL
        if example.style == "prose"
    ]
    other = unanswerable_twin(alike[0], alike, random.Random(0))
    assert other.passages != alike[0].passages
    assert not any(any(answers_in("prose", other.answers, passage)) for passage in other.passages)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(UserError, match=r"sft.unanswerable = 0.6: .* valid: 0 to 0.5"):
        add_unanswerable_twins(POOL, share=0.6, pool=POOL, seed=0)
    with pytest.raises(UserError, match="more questions are needed"):
        unanswerable_twin(POOL[0], POOL[:1], random.Random(0))
