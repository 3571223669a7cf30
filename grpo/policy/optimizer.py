"""AdamW's settings, and the learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWConfig:
    """AdamW and its schedule; the paper's values where it gives them (section 3.1: lr 1e-5, cosine, warm-up 0.1)."""

    lr: float = 1e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.1  # share of all updates
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0


def learning_rate(optim: AdamWConfig, *, update: int, updates: int) -> float:
    """The rate of update `update` (from 0) of `updates`: a linear rise, then down to 0 by cosine or line, or flat.

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
