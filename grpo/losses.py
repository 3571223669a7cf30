"""Losses: pure functions of log-probabilities. B rows, C completion positions.

All averaging is one tensor, `weight_BC`, made by `token_weights` from global integer counts once per optimizer step.
A loss is the plain sum -(objective_BC * weight_BC).sum(), so it cannot change with micro-batches, packing, order or
ranks. Nothing below divides by a count.

To add a loss, write one function and add one entry to `LOSSES`. Entries where `learn_BC` is false may hold anything,
also NaN; `LossInputs.of` replaces them by 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.settings import Aggregation, Estimator, LossConfig

Stats = dict[str, float]
"""Finished statistics of an update, by name."""

StatsCheck = Callable[[Stats], None]
"""Called with the means over all ranks before the weights move; an exception leaves the weights as they are."""


class Metric(NamedTuple):
    """One statistic of some rows. Sums and counts add up over micro-batches and ranks, and the value is sum / count.

    A count of 0 means that the value is the sum itself. `max` is logged beside the value, as NAME_max.
    """

    sum: float
    count: float = 0.0
    max: float | None = None


Metrics = Mapping[str, Metric]
Loss = Callable[[Tensor, Tensor, Batch], tuple[Tensor, Metrics]]
"""(logp_BC, entropy_BC, rows) -> (the loss of these rows, a plain weighted sum; its metrics)."""


def token_weights(
    learn_BC: Tensor, *, aggregation: Aggregation, tokens: int, sequences: int, max_tokens: int
) -> Tensor:
    """Return the weight of every token in the loss: bool [B, C] -> float32 [B, C], 0 where nothing is learnt.

    token     1 / tokens: every token counts alike (DAPO)
    sequence  1 / (sequences * own length): every completion counts alike (GRPO)
    constant  1 / (sequences * max_tokens): lengths are not divided by at all (Dr. GRPO)

    `tokens` and `sequences` count the whole optimizer step over all ranks, zero-variance groups included.
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
    config: LossConfig,
    *,
    max_tokens: int = 1,
    total: Callable[[Sequence[float]], Sequence[float]] = lambda counts: counts,
) -> Batch:
    """Return the batch with `weight_BC`; with kl_coef = 0, without the rows whose advantage is 0.

    `total` adds counts over all ranks. Rows of advantage 0 have no gradient when kl_coef = 0, so leaving them out saves
    time and changes nothing else: their tokens and completions stay in the counts. With kl_coef > 0 they feel the
    reference.
    """
    tokens, sequences = total([int(batch.learn_BC.sum()), len(batch.group_B)])
    counts = {"tokens": int(tokens), "sequences": int(sequences), "max_tokens": max_tokens}
    batch = replace(batch, weight_BC=token_weights(batch.learn_BC, aggregation=config.aggregation, **counts))
    return batch if config.kl_coef else batch.rows(torch.nonzero(batch.advantage_B).flatten().tolist())


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a policy loss is computed from; 0 where nothing is learnt.

    Where the batch has no old log-probabilities, this is the first update on the rollout: the old policy is the current
    policy, and its log-probabilities are those of the gradient pass, detached. The ratio is then exactly 1.
    """

    logp_BC: Tensor
    old_logp_BC: Tensor
    sampler_logp_BC: Tensor
    advantage_B1: Tensor
    learn_BC: Tensor

    @classmethod
    def of(cls, logp_BC: Tensor, batch: Batch) -> "LossInputs":
        """Select the learnt tokens: padding may hold NaN, and 0 * NaN is NaN."""
        learn_BC = batch.learn_BC
        logp_BC = torch.where(learn_BC, logp_BC, 0.0)
        old_logp_BC = logp_BC.detach() if batch.old_logp_BC is None else torch.where(learn_BC, batch.old_logp_BC, 0.0)
        sampler_logp_BC = torch.where(learn_BC, batch.sampler_logp_BC, 0.0)
        return cls(logp_BC, old_logp_BC, sampler_logp_BC, batch.advantage_B[:, None], learn_BC)

    @property
    def log_ratio_BC(self) -> Tensor:
        return self.logp_BC - self.old_logp_BC


PolicyObjective = Callable[[LossInputs, LossConfig], tuple[Tensor, Tensor, Metrics]]
"""(inputs, config) -> (the value of each token to be raised [B, C], the ratio [B, C] or [B, 1], metrics of its own)."""


def grpo_objective(x: LossInputs, config: LossConfig) -> tuple[Tensor, Tensor, Metrics]:
    """PPO's clipped surrogate with a ratio per token (GRPO, DAPO)."""
    return _clipped(x, x.log_ratio_BC.exp(), config)


def gspo_objective(x: LossInputs, config: LossConfig) -> tuple[Tensor, Tensor, Metrics]:
    """The clipped surrogate with one ratio per row (GSPO)."""
    return _clipped(x, sequence_ratio(x.log_ratio_BC, x.learn_BC), config)


def cispo_objective(x: LossInputs, config: LossConfig) -> tuple[Tensor, Tensor, Metrics]:
    """REINFORCE with the ratio as a bounded, detached weight (CISPO)."""
    ratio_BC = x.log_ratio_BC.exp()
    return ratio_BC.detach().clamp(max=config.cispo_clip) * x.advantage_B1 * x.logp_BC, ratio_BC, {}


def sapo_objective(x: LossInputs, config: LossConfig) -> tuple[Tensor, Tensor, Metrics]:
    """A sigmoid gate around ratio 1 instead of a clip, steeper for negative advantages (SAPO)."""
    ratio_BC = x.log_ratio_BC.exp()
    positive, negative = config.sapo_temperatures
    temperature_B1 = torch.where(x.advantage_B1 > 0, positive, negative)
    gate_BC = torch.sigmoid(temperature_B1 * (ratio_BC - 1)) * (4 / temperature_B1)
    return gate_BC * x.advantage_B1, ratio_BC, {}


def policy_loss(
    logp_BC: Tensor, entropy_BC: Tensor, batch: Batch, config: LossConfig, *, objective: PolicyObjective
) -> tuple[Tensor, Metrics]:
    """Return the loss of an objective, with importance weights and a KL penalty where the config has them."""
    assert batch.weight_BC is not None, "call with_token_weights first"
    x = LossInputs.of(logp_BC, batch)
    value_BC, ratio_BC, own = objective(x, config)
    metrics = {**_metrics(x, entropy_BC, ratio_BC), **own}
    if config.importance_cap:
        value_BC = value_BC * truncated_importance_weight(x.old_logp_BC, x.sampler_logp_BC, cap=config.importance_cap)
    if config.kl_coef:
        assert batch.ref_logp_BC is not None, "kl_coef > 0 needs reference log-probabilities"
        ref_logp_BC = torch.where(x.learn_BC, batch.ref_logp_BC, 0.0)
        kl_BC = kl_estimate(x.logp_BC, ref_logp_BC, estimator=config.kl_estimator)
        value_BC = value_BC - config.kl_coef * kl_BC
        metrics["kl"] = Metric(float(kl_BC.detach().sum()), float(x.learn_BC.sum()))
    loss = -(value_BC * batch.weight_BC).sum()
    return loss, metrics | {"loss": Metric(float(loss.detach()))}


def sft_loss(
    logp_BC: Tensor, entropy_BC: Tensor, batch: Batch, config: LossConfig | None = None
) -> tuple[Tensor, Metrics]:
    """Return the weighted negative log-likelihood of gold completions."""
    assert batch.weight_BC is not None, "call with_token_weights first"
    logp_BC = torch.where(batch.learn_BC, logp_BC, 0.0)
    loss, tokens = -(logp_BC * batch.weight_BC).sum(), float(batch.learn_BC.sum())
    nll = Metric(-float(logp_BC.detach().sum()), tokens)
    return loss, {"tokens": Metric(tokens), "nll": nll, "loss": Metric(float(loss.detach()))}


LOSSES: Mapping[str, Callable[[Tensor, Tensor, Batch, LossConfig], tuple[Tensor, Metrics]]] = {
    "grpo": partial(policy_loss, objective=grpo_objective),
    "gspo": partial(policy_loss, objective=gspo_objective),
    "cispo": partial(policy_loss, objective=cispo_objective),
    "sapo": partial(policy_loss, objective=sapo_objective),
    "sft": sft_loss,
}


def make_loss(config: LossConfig) -> Loss:
    """Return the loss that the config names."""
    loss = LOSSES[config.type]
    return lambda logp_BC, entropy_BC, batch: loss(logp_BC, entropy_BC, batch, config)


def clipped_surrogate(
    ratio_BC: Tensor, advantage_BC: Tensor, *, clip_low: float, clip_high: float, dual_clip: float
) -> Tensor:
    """PPO's pessimistic surrogate with separate bounds (DAPO) and an optional third (dual clip): [B, C]."""
    clipped_BC = ratio_BC.clamp(1 - clip_low, 1 + clip_high)
    bounded_BC = ratio_BC.clamp(max=dual_clip) if dual_clip else ratio_BC
    return torch.minimum(bounded_BC * advantage_BC, clipped_BC * advantage_BC)


def sequence_ratio(log_ratio_BC: Tensor, learn_BC: Tensor) -> Tensor:
    """GSPO: one ratio per row, the geometric mean of its tokens' ratios: [B, C] -> [B, 1]."""
    lengths_B1 = learn_BC.sum(dim=1, keepdim=True).clamp(min=1)
    return (log_ratio_BC.sum(dim=1, keepdim=True) / lengths_B1).exp()


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


def truncated_importance_weight(old_logp_BC: Tensor, sampler_logp_BC: Tensor, *, cap: float) -> Tensor:
    """Truncated importance weight min(pi_old / pi_sampler, cap), no gradient: [B, C]."""
    return (old_logp_BC - sampler_logp_BC).detach().exp().clamp(max=cap)


def merge_metrics(one: Metrics, other: Metrics) -> Metrics:
    """Combine the metrics of two parts of a batch: sums and counts add, of maxima the larger stays."""
    merged = dict(one)
    for name, metric in other.items():
        before = merged.get(name, Metric(0.0, 0.0, metric.max))
        peak = None if metric.max is None or before.max is None else max(before.max, metric.max)
        merged[name] = Metric(before.sum + metric.sum, before.count + metric.count, peak)
    return merged


def finalize_metrics(metrics: Metrics) -> Stats:
    """Return the values of merged metrics: sum / count, or the sum where the count is 0, and NAME_max."""
    values = {name: metric.sum / metric.count if metric.count else metric.sum for name, metric in metrics.items()}
    return values | {f"{name}_max": metric.max for name, metric in metrics.items() if metric.max is not None}


def _clipped(x: LossInputs, ratio_BC: Tensor, config: LossConfig) -> tuple[Tensor, Tensor, Metrics]:
    """The clipped surrogate of a ratio [B, C] or [B, 1], and the share of tokens on the active side of the clip."""
    low, high = config.clip_low, config.clip_high
    value_BC = clipped_surrogate(
        ratio_BC, x.advantage_B1, clip_low=low, clip_high=high, dual_clip=config.dual_clip
    ).expand_as(x.logp_BC)
    above_BC = (x.advantage_B1 > 0) & (ratio_BC > 1 + high)
    below_BC = (x.advantage_B1 < 0) & (ratio_BC < 1 - low)
    clipped = float(((above_BC | below_BC) & x.learn_BC).sum())
    return value_BC, ratio_BC, {"clip": Metric(clipped, float(x.learn_BC.sum()))}


@torch.no_grad()
def _metrics(x: LossInputs, entropy_BC: Tensor, ratio_BC: Tensor) -> dict[str, Metric]:
    """The metrics of every policy loss, over tokens."""
    tokens = float(x.learn_BC.sum())
    gap_BC = (x.old_logp_BC - x.sampler_logp_BC).abs()
    # KL(sampler || policy) on tokens that the sampler drew: its distribution stands where kl_estimate has the policy.
    approx_kl_BC = kl_estimate(x.sampler_logp_BC, x.logp_BC, estimator="k3")
    return {
        "tokens": Metric(tokens),
        "entropy": Metric(float(torch.where(x.learn_BC, entropy_BC, 0.0).sum()), tokens),
        "ratio": Metric(float((ratio_BC * x.learn_BC).sum()), tokens),
        "approx_kl": Metric(float(approx_kl_BC.sum()), tokens),
        "mismatch": Metric(float(gap_BC.sum()), tokens, float(gap_BC.max()) if gap_BC.numel() else 0.0),
    }
