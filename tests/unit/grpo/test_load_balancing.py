"""Work shared out over ranks: nobody waits long, nothing is lost, and who learns from a group is not who sampled it."""

import random

import pytest

from grpo.advantages import advantages
from grpo.distributed.communicator import Communicator
from grpo.distributed.load_balancing import karmarkar_karp, own_share
from grpo.types import Completion, Group, Score
from tests.helpers.toy import example


class Rank(Communicator):
    """One of several ranks, as far as it decides by itself."""

    def __init__(self, rank, world):
        self.rank, self.world = rank, world


def group(number, prompt, lengths, totals=None):
    completions = tuple(
        Completion(text="", token_ids=(1,) * n, logprobs=(0.0,) * n, finish="stop", version=0) for n in lengths
    )
    totals = totals or range(len(lengths))
    scores = tuple(Score(total=float(total), parts={}) for total in totals)
    return Group(example=example(number), prompt_ids=(1,) * prompt, completions=completions, scores=scores)


def share_of(groups, comm, **how):
    """The groups of a rank, which come with their own advantages."""
    advantages_PG = advantages(groups, mode="std", weights={})
    own, own_PG = own_share(groups, advantages_PG, comm, **how)
    assert own_PG.tolist() == [advantages_PG[groups.index(each)].tolist() for each in own]
    return own


def loads(costs, shares):
    return [sum(costs[place] for place in share) for share in shares]


def test_the_skewed_case_in_numbers():
    """Rank 0 sampled the four long groups and rank 1 the short ones: 7,400 tokens against 1,800; now 4,600 each."""
    costs = [2000, 1900, 1800, 1700, 400, 500, 300, 600]
    assert loads(costs, [range(4), range(4, 8)]) == [7400, 1800]
    assert loads(costs, karmarkar_karp(costs, 2)) == [4600, 4600]


def test_better_than_dealing_out_the_largest_first():
    assert loads([8, 7, 6, 5, 4], karmarkar_karp([8, 7, 6, 5, 4], 2)) == [16, 14]  # greedy: 17 and 13
    costs = [random.Random(seed).randint(500, 5000) for seed in range(48)]
    sums = loads(costs, karmarkar_karp(costs, 8))
    assert max(sums) < 1.01 * sum(costs) / 8


@pytest.mark.parametrize(("count", "ranks"), [(0, 3), (1, 1), (4, 4), (5, 3), (48, 7)])
def test_everything_is_shared_out_once_and_every_rank_has_some(count, ranks):
    shares = karmarkar_karp([1 + place % 5 for place in range(count)], ranks)
    assert len(shares) == ranks
    assert sorted(place for share in shares for place in share) == list(range(count))
    assert all(share == sorted(share) for share in shares)
    assert count < ranks or all(shares)


def test_ranks_agree_on_who_learns_from_which_group():
    groups = [group(0, 90, (5, 6)), group(1, 10, (3, 4)), group(2, 60, (9, 9)), group(3, 40, (2, 2))]
    shares = [share_of(groups, Rank(rank, 2)) for rank in range(2)]
    assert [[int(g.example.id[-1]) for g in share] for share in shares] == [[2, 3], [0, 1]]  # 118 and 114 tokens
    assert share_of(groups, Communicator()) == groups


def test_a_group_of_advantage_0_costs_nothing_where_it_is_left_out():
    """Two large groups of zero variance and two small ones that teach: one of these for each rank."""
    groups = [group(0, 90, (5, 6), (1, 1)), group(1, 20, (3, 4)), group(2, 90, (9, 9), (0, 0)), group(3, 20, (2, 2))]
    taught = [{int(g.example.id[-1]) for g in share_of(groups, Rank(rank, 2), drop_zero=True)} for rank in range(2)]
    assert sorted(len(share & {1, 3}) for share in taught) == [1, 1]
    counted = [{int(g.example.id[-1]) for g in share_of(groups, Rank(rank, 2))} for rank in range(2)]
    assert sorted(len(share & {0, 2}) for share in counted) == [1, 1]
