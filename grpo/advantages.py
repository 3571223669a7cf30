"""Rewards -> advantages, by comparison within the group. Pure functions of tensors; statistics in float64.

P prompts, G completions per prompt, K reward parts.

A group whose rewards span at most 1e-6 of their scale is *dead*: nothing in it is better than anything else, and its
advantage is exactly 0 in every mode, whatever rounding noise its rewards carry.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["std", "mean", "leave_one_out"]
DEAD = 1e-6  # span of a dead group, relative to max(1, largest |reward|)


def alive(rewards_PG: Tensor) -> Tensor:
    """Which groups can teach: [P, G] -> bool [P].

    >>> alive(torch.tensor([[1.0, 0.0], [0.5, 0.5 + 1e-7]])).tolist()
    [True, False]
    """
    rewards_PG = rewards_PG.double()
    scale_P = rewards_PG.abs().amax(dim=1).clamp(min=1.0)
    return rewards_PG.amax(dim=1) - rewards_PG.amin(dim=1) > DEAD * scale_P


def group_advantages(rewards_PG: Tensor, *, mode: Mode = "std", eps: float = 1e-4) -> Tensor:
    """How much better than its siblings each completion is: [P, G] -> float32 [P, G].

    std            (r - mean) / (std + eps), sample standard deviation (ddof 1): GRPO
    mean           r - mean: Dr. GRPO, which finds that the division favors too easy and too hard questions
    leave_one_out  r - mean of the others = (r - mean) G / (G - 1): RLOO

    Raises ValueError for groups of one, which have nobody to be compared with.
    """
    _check(rewards_PG)
    rewards_PG = rewards_PG.double()
    size = rewards_PG.shape[1]
    centered_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    if mode == "std":
        advantages_PG = centered_PG / (rewards_PG.std(dim=1, correction=1, keepdim=True) + eps)
    elif mode == "mean":
        advantages_PG = centered_PG
    elif mode == "leave_one_out":
        advantages_PG = centered_PG * (size / (size - 1))
    else:
        raise ValueError(f"unknown advantage mode {mode!r}; valid: std, mean, leave_one_out")
    return torch.where(alive(rewards_PG)[:, None], advantages_PG, 0.0).float()


def gdpo_advantages(
    parts_KPG: Tensor,
    weights_K: Tensor,
    *,
    eps: float = 1e-4,
    total: Callable[[list[float]], list[float]] = lambda sums: sums,
) -> Tensor:
    """Per-reward normalization (GDPO): [K, P, G] and [K] -> float32 [P, G].

    Each part is normalized within its group before the weighted sum, so that a part with a small spread is not drowned
    by one with a large spread; the sum is then divided by its standard deviation over the whole batch. The batch mean
    is 0 because every group's mean is, so nothing is subtracted and a dead group stays exactly at 0.
    `total` adds numbers over all ranks.
    """
    normalized_KPG = torch.stack([group_advantages(part_PG, mode="std", eps=eps).double() for part_PG in parts_KPG])
    summed_PG = (normalized_KPG * weights_K.double()[:, None, None]).sum(dim=0)
    count, squares = total([float(summed_PG.numel()), float(summed_PG.square().sum())])
    return (summed_PG / ((squares / max(count - 1, 1)) ** 0.5 + eps)).float()


def filled(parts_KPG: Tensor) -> Tensor:
    """Parts that were not scored (NaN) as the mean of their scored siblings, 0 where none was: [K, P, G] -> the same.

    >>> filled(torch.tensor([[[1.0, float("nan"), 2.0]]])).tolist()
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
