"""Hand-computed advantages, and what they must not depend on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.advantages import advantages, gdpo_advantages, group_advantages, has_signal
from grpo.types import Group, Score
from tests.helpers.toy import example

# Eight stage 2 totals, mean 2.9375, sample standard deviation 1.015505
PAPER = [4.5, 2.5, 2.0, 2.5, 4.5, 2.0, 3.0, 2.5]
MODES = ["std", "mean", "leave_one_out"]


def test_the_papers_group():
    found = group_advantages(torch.tensor([PAPER]))[0].tolist()
    assert found == pytest.approx([1.5385, -0.4308, -0.9231, -0.4308, 1.5385, -0.9231, 0.0615, -0.4308], abs=5e-5)


def test_without_the_standard_deviation():
    assert group_advantages(torch.tensor([PAPER]), mode="mean")[0, :3].tolist() == [1.5625, -0.4375, -0.9375]


def test_leave_one_out():
    """For rewards 1, 0, .5, .25 the means of the others are .25, .5833, .4167, .5."""
    found = group_advantages(torch.tensor([[1.0, 0.0, 0.5, 0.25]]), mode="leave_one_out")[0].tolist()
    assert found == pytest.approx([0.75, -0.583333, 0.083333, -0.25], abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_zero_variance_groups_get_exactly_zero(mode):
    noise = sum([0.1] * 10) - 1.0  # -1.1e-16: equal rewards added up in another order
    rewards = torch.tensor([[0.7, 0.7 + noise, 0.7, 0.7], [3e3, 3e3 + 1e-4, 3e3, 3e3], [0.0] * 4], dtype=torch.float64)
    assert not has_signal(rewards).any()
    assert group_advantages(rewards, mode=mode).tolist() == [[0.0] * 4] * 3


def test_a_small_difference_is_not_blown_up():
    """A spread of 1e-5 in a group of 4 gives 0.07 with eps 1e-4 (and would give 1.5 with 1e-9)."""
    found = group_advantages(torch.tensor([[1e-5, 0.0, 0.0, 0.0]], dtype=torch.float64))
    assert float(found.max()) == pytest.approx(0.0714, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
@given(rewards=st.lists(st.integers(-8, 8), min_size=2, max_size=8), shift=st.integers(-4, 4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_shift_and_permutation(mode, rewards, shift, seed):
    row = torch.tensor([rewards], dtype=torch.float64) / 2
    found = group_advantages(row, mode=mode)
    assert torch.allclose(group_advantages(row + shift, mode=mode), found, atol=1e-6)
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(group_advantages(row[:, order], mode=mode), found[:, order], atol=1e-6)
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-5)


def test_scale_leaves_the_normalized_and_stretches_the_others():
    row = torch.tensor([PAPER], dtype=torch.float64)
    assert torch.allclose(group_advantages(row * 10), group_advantages(row), atol=1e-3)
    assert torch.allclose(group_advantages(row * 10, mode="mean"), group_advantages(row, mode="mean") * 10)


def test_gdpo_hears_the_quiet_part():
    """The second part is a hundred times smaller and weighs as much; a group that is alike in all parts stays at 0."""
    parts = torch.tensor([[[1.0, 0.0], [5.0, 5.0]], [[0.0, 0.01], [1.0, 1.0]]])
    found = gdpo_advantages(parts, torch.tensor([1.0, 1.0]))
    # Normalized: 0.5/0.7071.. = .70700 and -.005/(.00707 + .0001) = -.69725; they nearly cancel.
    assert float(found[0, 0]) > 0 > float(found[0, 1])
    assert found[1].tolist() == [0.0, 0.0]
    only_second = gdpo_advantages(parts, torch.tensor([0.0, 1.0]))
    assert only_second[0].tolist() == pytest.approx([-1.2247, 1.2247], abs=1e-3)  # over the std of (-x, x, 0, 0)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [([[1.0]], "group of one"), ([1.0, 2.0], r"\[prompts, completions\]"), ([[1.0, float("nan")]], "not finite")],
)
def test_refused(rewards, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(torch.tensor(rewards))


def scored(number, loud, quiet):
    """A scored group; None: a completion that this part did not score."""
    rows = [{"loud": a} | ({} if b is None else {"quiet": b}) for a, b in zip(loud, quiet, strict=True)]
    scores = tuple(Score(total=sum(row.values()), parts=row) for row in rows)
    return Group(example=example(number), prompt_ids=(1,), completions=(), scores=scores)


def test_per_reward_compares_part_by_part():
    """Two parts, of which one is mostly a hundredth of the other, and one that a completion was not scored by."""
    groups = [scored(0, [1, 0, 0], [0.01, 0, 0]), scored(1, [1, 0, 0], [0, None, 0.01])]
    groups += [scored(2, [2, 2, 2], [0.5, 0.5, 0.5]), scored(3, [0, 0, 3], [0.5, 0, 0.5])]
    loud = [[1, 0, 0], [1, 0, 0], [2, 2, 2], [0, 0, 3]]
    quiet = [[0.01, 0, 0], [0, 0.005, 0.01], [0.5, 0.5, 0.5], [0.5, 0, 0.5]]
    found = advantages(groups, mode="per_reward", weights={"quiet": 2.0})
    assert torch.allclose(found, gdpo_advantages(torch.tensor([loud, quiet]), torch.tensor([1.0, 2.0])), atol=1e-6)
    assert found[2].tolist() == [0.0, 0.0, 0.0]
    assert found[1, 2] > found[1, 0]  # by the quiet part's weight; by totals it is the other way round
    by_total = advantages(groups, mode="std", weights={})
    assert by_total[1, 2] < by_total[1, 0]
    totals = torch.tensor([[score.total for score in group.scores] for group in groups]).double()
    assert torch.equal(by_total, group_advantages(totals))
