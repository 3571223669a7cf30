"""AdamW's settings, and the learning rate as a pure function of the step."""

import math
from typing import Annotated, Literal

from pydantic import Field

from grpo.config import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamWConfig(Section):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-5, gt=0, allow_inf_nan=False, description="peak learning rate (paper 3.1)")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="after the warm-up (paper 3.1)"
    )
    warmup_ratio: float = Field(default=0.1, ge=0, le=1, description="share of all updates over which the rate rises")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = Field(
        default=(0.9, 0.999), description="Adam's beta1, beta2"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="a larger gradient is scaled down to this norm")


def learning_rate(optim: AdamWConfig, *, update: int, updates: int) -> float:
    """Learning rate of update `update` (from 0) of `updates`: linear warm-up, then the schedule, down to 0.

    >>> [round(learning_rate(AdamWConfig(lr=1.0), update=u, updates=20), 3) for u in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.008]
    """
    rise = math.ceil(optim.warmup_ratio * updates)
    if update < rise:
        return optim.lr * (update + 1) / rise
    progress = min((update - rise) / max(updates - rise, 1), 1.0)
    if optim.schedule == "cosine":
        return optim.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if optim.schedule == "linear":
        return optim.lr * (1 - progress)
    return optim.lr
