"""Advantages: rewards compared within a group. Statistics are in float64.

P prompts, G completions per prompt, K reward parts.

A group has *zero variance* when its rewards span at most 1e-6 of their scale. Its advantage is exactly 0 in every mode,
whatever rounding noise its rewards carry.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from grpo.types import Group

Mode = Literal["std", "mean", "leave_one_out"]
ZERO_SPAN = 1e-6  # largest span of a zero-variance group, relative to max(1, largest |reward|)
EPS = 1e-4  # added to a standard deviation before it divides


def advantages(groups: Sequence[Group], *, mode: Mode | Literal["per_reward"], weights: Mapping[str, float]) -> Tensor:
    """Return the advantage of every completion, float32 [P, G], from scored groups.

    `weights` are those of reward parts in the mode `per_reward`, 1 where a part is not named. Unscored parts are
    imputed. Compare the groups of all ranks at once: `per_reward` divides by a deviation over the whole batch.
    """
    if mode != "per_reward":
        return group_advantages(total_rewards(groups), mode=mode)
    names = sorted({name for group in groups for score in group.scores for name in score.parts})
    parts_KPG = torch.tensor(
        [[[score.parts.get(name, math.nan) for score in group.scores] for group in groups] for name in names],
        dtype=torch.float64,
    )
    weights_K = torch.tensor([weights.get(name, 1.0) for name in names], dtype=torch.float64)
    return gdpo_advantages(impute_missing(parts_KPG), weights_K)


def total_rewards(groups: Sequence[Group]) -> Tensor:
    """Return the total reward of every completion, float64 [P, G]."""
    return torch.tensor([[score.total for score in group.scores] for group in groups], dtype=torch.float64)


def has_signal(rewards_PG: Tensor) -> Tensor:
    """Return which groups do not have zero variance: [P, G] -> bool [P].

    >>> has_signal(torch.tensor([[1.0, 0.0], [0.5, 0.5 + 1e-7]])).tolist()
    [True, False]
    """
    rewards_PG = rewards_PG.double()
    scale_P = rewards_PG.abs().amax(dim=1).clamp(min=1.0)
    return rewards_PG.amax(dim=1) - rewards_PG.amin(dim=1) > ZERO_SPAN * scale_P


def group_advantages(rewards_PG: Tensor, *, mode: Mode = "std") -> Tensor:
    """Return how much better than the rest of its group each completion is: [P, G] -> float32 [P, G].

    std            GRPO: (r - mean) / (std + 1e-4), with the sample standard deviation (ddof 1).
    mean           Dr. GRPO: r - mean. It finds that the division favors too easy and too hard questions.
    leave_one_out  RLOO: r - mean of the others = (r - mean) G / (G - 1).

    Raises ValueError for groups of one, which have no other completion to compare with.
    """
    _check(rewards_PG)
    rewards_PG = rewards_PG.double()
    size = rewards_PG.shape[1]
    centered_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    if mode == "std":
        advantages_PG = centered_PG / (rewards_PG.std(dim=1, correction=1, keepdim=True) + EPS)
    elif mode == "mean":
        advantages_PG = centered_PG
    elif mode == "leave_one_out":
        advantages_PG = centered_PG * (size / (size - 1))
    else:
        raise ValueError(f"unknown advantage mode {mode!r}; valid: std, mean, leave_one_out")
    return torch.where(has_signal(rewards_PG)[:, None], advantages_PG, 0.0).float()


def gdpo_advantages(parts_KPG: Tensor, weights_K: Tensor) -> Tensor:
    """Return advantages with every reward part normalized on its own (GDPO): [K, P, G] and [K] -> float32 [P, G].

    Each part is normalized within its group before the weighted sum, so that no part drowns another. The sum is then
    divided by its standard deviation over the batch. Nothing is subtracted: every group's mean is 0.
    """
    normalized_KPG = torch.stack([group_advantages(part_PG, mode="std").double() for part_PG in parts_KPG])
    summed_PG = (normalized_KPG * weights_K.double()[:, None, None]).sum(dim=0)
    variance = float(summed_PG.square().sum()) / max(summed_PG.numel() - 1, 1)
    return (summed_PG / (variance**0.5 + EPS)).float()


def impute_missing(parts_KPG: Tensor) -> Tensor:
    """Replace unscored parts (NaN) by the mean of the scored ones of the group, or 0: [K, P, G] -> the same.

    >>> impute_missing(torch.tensor([[[1.0, float("nan"), 2.0]]])).tolist()
    [[[1.0, 1.5, 2.0]]]
    """
    means_KP1 = torch.nan_to_num(parts_KPG.nanmean(dim=-1, keepdim=True))
    return torch.where(parts_KPG.isnan(), means_KP1, parts_KPG)


def _check(rewards_PG: Tensor) -> None:
    if rewards_PG.ndim != 2:
        raise ValueError(f"rewards must be [prompts, completions], got shape {tuple(rewards_PG.shape)}")
    if rewards_PG.shape[1] < 2:
        raise ValueError("a group of one cannot be compared with anything: group_size must be at least 2")
    if not torch.isfinite(rewards_PG).all():
        raise ValueError("a reward is not finite")
