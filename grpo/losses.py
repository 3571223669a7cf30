"""What is maximized: pure functions of log-probabilities. B rows, C completion positions.

All averaging is one tensor, `weight_BC`, made by `token_weights` from global integer counts once per optimizer step.
The loss is the plain sum -(objective_BC * weight_BC).sum(), so it cannot change with micro-batches, packing, order or
ranks. Nothing below divides by a count.

Every function returns per-token values with gradients with respect to `logp_BC`; entries where `learn_BC` is false may
hold anything, also NaN, and are dropped in `grpo_loss`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from grpo.batch import Batch

Aggregation = Literal["token", "sequence", "constant"]
LossType = Literal["grpo", "gspo", "cispo", "sapo"]
Estimator = Literal["k1", "k2", "k3"]
Stats = dict[str, float]
"""Sums over tokens, which add up over micro-batches and ranks; names that end in `_max` combine by maximum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The numbers of the loss. Defaults: GRPO with DAPO's higher upper clip, no reference model."""

    type: LossType = "grpo"
    clip_low: float = 0.2  # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.28
    dual_clip: float | None = None  # upper bound of the ratio where the advantage is negative (Ye et al. 2020), > 1
    cispo_clip: float = 5.0  # absolute upper bound of CISPO's detached ratio, as in TRL; verl writes 1 + eps_high
    sapo_temperatures: tuple[float, float] = (1.0, 1.05)  # for advantages > 0, and for the others
    kl_coef: float = 0.0  # coefficient of the KL penalty in the loss; 0 keeps no reference model
    kl_estimator: Estimator = "k3"
    importance_cap: float | None = 2.0  # truncated importance weight of trainer against sampler; None: no correction


def token_weights(
    learn_BC: Tensor, *, aggregation: Aggregation, tokens: int, sequences: int, max_tokens: int
) -> Tensor:
    """The weight of every token in the loss: bool [B, C] -> float32 [B, C], 0 where nothing is learnt.

    token     1 / tokens: every token counts alike (DAPO)
    sequence  1 / (sequences * own length): every completion counts alike (GRPO)
    constant  1 / (sequences * max_tokens): lengths are not divided by at all (Dr. GRPO)

    `tokens` and `sequences` count the whole optimizer step over all ranks, dead groups included.
    """
    if aggregation == "token":
        weight_B1 = torch.full((learn_BC.shape[0], 1), 1.0 / max(tokens, 1), dtype=torch.float64)
    elif aggregation == "sequence":
        weight_B1 = 1.0 / (learn_BC.sum(dim=1, keepdim=True).clamp(min=1).double() * max(sequences, 1))
    elif aggregation == "constant":
        weight_B1 = torch.full((learn_BC.shape[0], 1), 1.0 / (max(sequences, 1) * max_tokens), dtype=torch.float64)
    else:
        raise ValueError(f"unknown aggregation {aggregation!r}; valid: token, sequence, constant")
    return (weight_B1 * learn_BC).float()


def with_token_weights(
    batch: Batch,
    *,
    aggregation: Aggregation,
    max_tokens: int = 1,
    drop_zero: bool = True,
    total: Callable[[Sequence[float]], Sequence[float]] = lambda counts: counts,
) -> Batch:
    """Return the batch with `weight_BC`, and with `drop_zero` without the rows whose advantage is 0.

    `total` adds counts over all ranks. Rows of advantage 0 have no gradient when kl = 0, so leaving them out saves time
    and changes nothing else: their tokens and completions stay in the counts. With kl > 0 they feel the reference.
    """
    tokens, sequences = total([int(batch.learn_BC.sum()), len(batch.group_B)])
    counts = {"tokens": int(tokens), "sequences": int(sequences), "max_tokens": max_tokens}
    batch = replace(batch, weight_BC=token_weights(batch.learn_BC, aggregation=aggregation, **counts))
    return batch.rows(torch.nonzero(batch.advantage_B).flatten().tolist()) if drop_zero else batch


def clipped_surrogate(
    ratio_BC: Tensor, advantage_BC: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None
) -> Tensor:
    """PPO's pessimistic surrogate with separate bounds (DAPO) and an optional third (dual clip): [B, C]."""
    clipped_BC = ratio_BC.clamp(1 - clip_low, 1 + clip_high)
    bounded_BC = ratio_BC if dual_clip is None else ratio_BC.clamp(max=dual_clip)
    return torch.minimum(bounded_BC * advantage_BC, clipped_BC * advantage_BC)


def sequence_ratio(log_ratio_BC: Tensor, learn_BC: Tensor) -> Tensor:
    """GSPO: one ratio per row, the geometric mean of its tokens' ratios: [B, C] -> [B, 1]."""
    lengths_B1 = learn_BC.sum(dim=1, keepdim=True).clamp(min=1)
    return (log_ratio_BC.sum(dim=1, keepdim=True) / lengths_B1).exp()


def soft_gate(ratio_BC: Tensor, advantage_BC: Tensor, *, temperatures: tuple[float, float]) -> Tensor:
    """SAPO: a sigmoid gate around ratio 1 instead of a clip, steeper for negative advantages: [B, C]."""
    positive, negative = temperatures
    temperature_BC = torch.where(advantage_BC > 0, positive, negative)
    return torch.sigmoid(temperature_BC * (ratio_BC - 1)) * (4 / temperature_BC) * advantage_BC


def kl_estimate(logp_BC: Tensor, ref_logp_BC: Tensor, *, estimator: Estimator) -> Tensor:
    """KL(policy || reference) per token (Schulman 2020): k1 log-ratio, k2 half its square, k3 unbiased and >= 0."""
    log_ratio_BC = logp_BC - ref_logp_BC
    if estimator == "k1":
        return log_ratio_BC
    if estimator == "k2":
        return log_ratio_BC.square() / 2
    if estimator == "k3":
        return torch.expm1(-log_ratio_BC) + log_ratio_BC
    raise ValueError(f"unknown KL estimator {estimator!r}; valid: k1, k2, k3")


def sampler_weight(old_logp_BC: Tensor, sampler_logp_BC: Tensor, *, cap: float) -> Tensor:
    """Truncated importance weight min(pi_old / pi_sampler, cap), no gradient: [B, C]."""
    return (old_logp_BC - sampler_logp_BC).detach().exp().clamp(max=cap)


def policy_objective(o: Objective, logp_BC: Tensor, old_logp_BC: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The per-token value to be raised, and the ratio it used: ([B, C], [B, C] or [B, 1])."""
    log_ratio_BC = logp_BC - old_logp_BC
    advantage_B1 = batch.advantage_B[:, None]
    if o.type == "cispo":
        ratio_BC = log_ratio_BC.exp()
        return ratio_BC.detach().clamp(max=o.cispo_clip) * advantage_B1 * logp_BC, ratio_BC
    if o.type == "sapo":
        ratio_BC = log_ratio_BC.exp()
        return soft_gate(ratio_BC, advantage_B1.expand_as(ratio_BC), temperatures=o.sapo_temperatures), ratio_BC
    if o.type == "gspo":
        ratio_BC = sequence_ratio(log_ratio_BC, batch.learn_BC)
    elif o.type == "grpo":
        ratio_BC = log_ratio_BC.exp()
    else:
        raise ValueError(f"unknown policy loss {o.type!r}; valid: grpo, gspo, cispo, sapo")
    value_BC = clipped_surrogate(
        ratio_BC, advantage_B1, clip_low=o.clip_low, clip_high=o.clip_high, dual_clip=o.dual_clip
    )
    return value_BC.expand_as(logp_BC), ratio_BC


def grpo_loss(logp_BC: Tensor, entropy_BC: Tensor, batch: Batch, *, objective: Objective) -> tuple[Tensor, Stats]:
    """The loss of these rows, a plain weighted sum, and their statistics as sums: ([], Stats).

    Where `old_logp_BC` is None this is the first update on the rollout: the old policy is the current one and the old
    log-probabilities are the gradient pass's own, detached. The ratio is then exactly 1 and no extra forward is made.
    """
    assert batch.weight_BC is not None, "weigh the batch first"
    learn_BC = batch.learn_BC
    logp_BC = torch.where(learn_BC, logp_BC, 0.0)  # padding may hold NaN, and 0 * NaN is NaN
    old_logp_BC = logp_BC.detach() if batch.old_logp_BC is None else torch.where(learn_BC, batch.old_logp_BC, 0.0)
    sampler_logp_BC = torch.where(learn_BC, batch.sampler_logp_BC, 0.0)
    value_BC, ratio_BC = policy_objective(objective, logp_BC, old_logp_BC, batch)
    stats = _stats(objective, logp_BC.detach(), entropy_BC.detach(), old_logp_BC, sampler_logp_BC, ratio_BC, batch)
    if objective.importance_cap is not None:
        value_BC = value_BC * sampler_weight(old_logp_BC, sampler_logp_BC, cap=objective.importance_cap)
    if objective.kl_coef:
        assert batch.ref_logp_BC is not None, "kl > 0 needs reference log-probabilities"
        ref_logp_BC = torch.where(learn_BC, batch.ref_logp_BC, 0.0)
        kl_BC = kl_estimate(logp_BC, ref_logp_BC, estimator=objective.kl_estimator)
        value_BC = value_BC - objective.kl_coef * kl_BC
        stats["kl_sum"] = float(kl_BC.detach().sum())
    loss = -(value_BC * batch.weight_BC).sum()
    return loss, stats | {"loss": float(loss.detach())}


def sft_loss(logp_BC: Tensor, entropy_BC: Tensor, batch: Batch) -> tuple[Tensor, Stats]:
    """Supervised warm-up through the same engine: -(logp * weight) summed; one gold completion per group."""
    assert batch.weight_BC is not None, "weigh the batch first"
    logp_BC = torch.where(batch.learn_BC, logp_BC, 0.0)
    loss = -(logp_BC * batch.weight_BC).sum()
    tokens = float(batch.learn_BC.sum())
    return loss, {"tokens": tokens, "nll_sum": -float(logp_BC.detach().sum()), "loss": float(loss.detach())}


def _stats(
    o: Objective,
    logp_BC: Tensor,
    entropy_BC: Tensor,
    old_logp_BC: Tensor,
    sampler_logp_BC: Tensor,
    ratio_BC: Tensor,
    batch: Batch,
) -> Stats:
    learn_BC = batch.learn_BC
    ratio_BC = ratio_BC.detach().expand_as(logp_BC)
    clipped_BC = (ratio_BC < 1 - o.clip_low) | (ratio_BC > 1 + o.clip_high)
    mismatch_BC = (old_logp_BC - sampler_logp_BC).abs()
    # KL(sampler || policy) on tokens that the sampler drew, so its distribution stands where kl_estimate has the policy
    approx_kl_BC = kl_estimate(sampler_logp_BC, logp_BC, estimator="k3")
    return {
        "tokens": float(learn_BC.sum()),
        "entropy_sum": float(torch.where(learn_BC, entropy_BC, 0.0).sum()),
        "clip_sum": float((clipped_BC & learn_BC).sum()),
        "ratio_sum": float((ratio_BC * learn_BC).sum()),
        "approx_kl_sum": float(approx_kl_BC.sum()),
        "mismatch_sum": float(mismatch_BC.sum()),
        "mismatch_max": float(mismatch_BC.max()) if mismatch_BC.numel() else 0.0,
    }


def add_stats(total: Stats, part: Stats) -> Stats:
    """Combine the statistics of two parts of a batch: sums add, `_max` takes the larger."""
    merged = dict(total)
    for name, value in part.items():
        merged[name] = max(merged.get(name, value), value) if name.endswith("_max") else merged.get(name, 0.0) + value
    return merged


def mean_stats(total: Stats) -> Stats:
    """Sums -> what is logged: `x_sum` becomes `x`, per token; the rest keeps its name."""
    tokens = max(total.get("tokens", 0.0), 1.0)
    return {
        name.removesuffix("_sum"): value / tokens if name.endswith("_sum") else value for name, value in total.items()
    }
