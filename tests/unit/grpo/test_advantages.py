"""Hand-computed advantages, and what they must not depend on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.advantages import alive, gdpo_advantages, group_advantages

# Eight stage 2 totals, mean 2.9375, sample standard deviation 1.015505
PAPER = [4.5, 2.5, 2.0, 2.5, 4.5, 2.0, 3.0, 2.5]
MODES = ["std", "mean", "leave_one_out"]


def test_the_papers_group():
    advantages = group_advantages(torch.tensor([PAPER]))[0].tolist()
    assert advantages == pytest.approx([1.5385, -0.4308, -0.9231, -0.4308, 1.5385, -0.9231, 0.0615, -0.4308], abs=5e-5)


def test_without_the_standard_deviation():
    assert group_advantages(torch.tensor([PAPER]), mode="mean")[0, :3].tolist() == [1.5625, -0.4375, -0.9375]


def test_leave_one_out():
    """For rewards 1, 0, .5, .25 the means of the others are .25, .5833, .4167, .5."""
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.5, 0.25]]), mode="leave_one_out")[0].tolist()
    assert advantages == pytest.approx([0.75, -0.583333, 0.083333, -0.25], abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_dead_groups_get_exactly_zero(mode):
    noise = sum([0.1] * 10) - 1.0  # -1.1e-16: equal rewards added up in another order
    rewards = torch.tensor([[0.7, 0.7 + noise, 0.7, 0.7], [3e3, 3e3 + 1e-4, 3e3, 3e3], [0.0] * 4], dtype=torch.float64)
    assert not alive(rewards).any()
    assert group_advantages(rewards, mode=mode).tolist() == [[0.0] * 4] * 3


def test_a_small_difference_is_not_blown_up():
    """A spread of 1e-5 in a group of 4 gives 0.07 with eps 1e-4 (and would give 1.5 with 1e-9)."""
    advantages = group_advantages(torch.tensor([[1e-5, 0.0, 0.0, 0.0]], dtype=torch.float64))
    assert float(advantages.max()) == pytest.approx(0.0714, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
@given(rewards=st.lists(st.integers(-8, 8), min_size=2, max_size=8), shift=st.integers(-4, 4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_shift_and_permutation(mode, rewards, shift, seed):
    row = torch.tensor([rewards], dtype=torch.float64) / 2
    advantages = group_advantages(row, mode=mode)
    assert torch.allclose(group_advantages(row + shift, mode=mode), advantages, atol=1e-6)
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(group_advantages(row[:, order], mode=mode), advantages[:, order], atol=1e-6)
    assert float(advantages.sum()) == pytest.approx(0.0, abs=1e-5)


def test_scale_leaves_the_normalized_and_stretches_the_others():
    row = torch.tensor([PAPER], dtype=torch.float64)
    assert torch.allclose(group_advantages(row * 10), group_advantages(row), atol=1e-3)
    assert torch.allclose(group_advantages(row * 10, mode="mean"), group_advantages(row, mode="mean") * 10)


def test_gdpo_hears_the_quiet_part():
    """The second part is a hundred times smaller and weighs as much; a group dead in all parts stays at 0."""
    parts = torch.tensor([[[1.0, 0.0], [5.0, 5.0]], [[0.0, 0.01], [1.0, 1.0]]])
    advantages = gdpo_advantages(parts, torch.tensor([1.0, 1.0]))
    # Normalized: 0.5/0.7071.. = .70700 and -.005/(.00707 + .0001) = -.69725; they nearly cancel.
    assert float(advantages[0, 0]) > 0 > float(advantages[0, 1])
    assert advantages[1].tolist() == [0.0, 0.0]
    only_second = gdpo_advantages(parts, torch.tensor([0.0, 1.0]))
    assert only_second[0].tolist() == pytest.approx([-1.2247, 1.2247], abs=1e-3)  # over the std of (-x, x, 0, 0)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [([[1.0]], "group of one"), ([1.0, 2.0], r"\[prompts, completions\]"), ([[1.0, float("nan")]], "not finite")],
)
def test_refused(rewards, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(torch.tensor(rewards))
