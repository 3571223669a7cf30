"""Throughput of an update: tokens and operations from lengths, positions from a hook, and the perf/ metrics of both.

P tokens of a prompt, R of a completion, N parameters that a token is multiplied with. A trainer that runs the prompt
once per completion runs G (P + R) tokens for a group with P + G R distinct ones. Useful work is counted once per
distinct token, so that running a token twice never looks like speed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from grpo.batch import Batch

Product = tuple[int, int, int]
"""[m, k] times [k, n]"""

BACKWARD = 2  # the gradients of inputs and of weights: two products for each product of the forward pass
# A fifth of a second each on two cores, a thousandth on a GPU, and large enough to be as fast as larger products.
QUICK: dict[str, tuple[Product, ...]] = {"cpu": ((2048, 2048, 2048),), "cuda": ((8192, 8192, 8192),)}


class ModelDims(Protocol):
    """The sizes of a decoder that its operations depend on; `launch.config.model_size.ModelSize` has them."""

    @property
    def layers(self) -> int: ...
    @property
    def attention(self) -> int: ...  # heads x head_dim
    @property
    def parameters(self) -> int: ...  # all of them, tied ones once
    @property
    def head_parameters(self) -> int: ...  # vocabulary x hidden
    @property
    def tied(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Counts of some completions and the prompts they continue; counts of several batches add up.

    Two completions of 3 and 1 tokens after a prompt of 2: `TokenCounts(distinct=6, equivalent=8, learnt=4,
    completions=2, pairs=3 + 4 + 3)`. There are 3 pairs within the prompt. Two tokens of the first completion are
    processed: they see the prompt (2 x 2) and themselves (1 + 2). No token of the second is.
    """

    distinct: int = 0  # every prompt once, every completion once: P + G R of a group
    equivalent: int = 0  # a prompt for every completion: G (P + R), as a trainer without shared prompts runs
    learnt: int = 0  # completion tokens, whose logits are needed
    completions: int = 0  # the last token of each is predicted and never processed
    pairs: int = 0  # (query, key) of all processed tokens, with a token and itself as a pair

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(
            distinct=self.distinct + other.distinct,
            equivalent=self.equivalent + other.equivalent,
            learnt=self.learnt + other.learnt,
            completions=self.completions + other.completions,
            pairs=self.pairs + other.pairs,
        )

    @property
    def processed(self) -> int:
        """Positions that the shared layout runs at least: every distinct token but the last ones."""
        return self.distinct - self.completions

    @property
    def processed_unshared(self) -> int:
        """Positions that the padded layout runs at least: the same with a prompt for every completion."""
        return self.equivalent - self.completions


def group_counts(prompt: int, completions: Sequence[int]) -> TokenCounts:
    """Return the counts of one prompt and its completions, from their lengths in tokens.

    >>> group_counts(400, [48] * 8).distinct, group_counts(400, [48] * 8).equivalent
    (784, 3584)
    """
    return TokenCounts(
        distinct=prompt + sum(completions),
        equivalent=sum(prompt + length for length in completions),
        learnt=sum(completions),
        completions=len(completions),
        pairs=_triangle(prompt) + sum((length - 1) * prompt + _triangle(length - 1) for length in completions),
    )


def batch_counts(batch: Batch) -> TokenCounts:
    """Return the counts of a batch as it is trained on: rows that were left out cost nothing."""
    completions: dict[int, list[int]] = {}
    for group, length in zip(batch.group_B.tolist(), batch.lengths_B.tolist(), strict=True):
        completions.setdefault(group, []).append(length)
    counts = (group_counts(len(batch.prompts[group]), lengths) for group, lengths in completions.items())
    return sum(counts, TokenCounts())


def useful_flops(dims: ModelDims, counts: TokenCounts) -> float:
    """Return the operations of one forward and backward pass that every exact update has to do.

    3 (2 N tokens + 4 layers width pairs), as in PaLM (arXiv 2204.02311, appendix B), without logits of prompt tokens
    and without the last tokens. Attention is counted where a token may look, so half of a full square. The optimizer
    and recomputation are not counted.
    """
    trunk = dims.parameters - (1 if dims.tied else 2) * dims.head_parameters
    products = 2.0 * trunk * counts.processed + 2.0 * dims.head_parameters * counts.learnt
    return (1 + BACKWARD) * (products + attention_flops(dims, counts))


class ForwardTokenCounter:
    """Counter of the positions that a model's decoder runs for a gradient, padding and repeated prompts included."""

    def __init__(self) -> None:
        self._positions = self._calls = 0

    def attach(self, model: Any) -> None:
        """Count in this model from now on, by a hook, so that no engine reports its own speed."""
        model.get_decoder().register_forward_pre_hook(self._add, with_kwargs=True)

    def take(self) -> tuple[int, int]:
        """Return (positions, calls of the decoder) since the last time."""
        taken = self._positions, self._calls
        self._positions = self._calls = 0
        return taken

    def _add(self, module: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if torch.is_grad_enabled():  # not the passes for old log-probabilities
            self._positions += named["input_ids"].numel()
            self._calls += 1


class ThroughputMeter:
    """The perf/ metrics of this rank's updates: perf/mfu, perf/sharing, perf/padding."""

    def __init__(self, *, shared: bool, dims: ModelDims | None, peak: float | None) -> None:
        """`shared`: whether the layout runs a prompt once per group. `peak` is of this rank, in operations per second;
        without the peak or the model's dimensions there is no MFU."""
        self.counter = ForwardTokenCounter()
        self.shared, self._dims, self._peak = shared, dims, peak

    def measure(self, counts: TokenCounts, seconds: float) -> dict[str, float]:
        """Return the metrics of an update with these counts, or none where nothing was updated."""
        ran, _ = self.counter.take()
        if not counts.completions or not ran:
            return {}
        values = {"perf/sharing": sharing(counts, ran), "perf/padding": padding(counts, ran, shared=self.shared)}
        if self._dims is not None and self._peak:
            values["perf/mfu"] = useful_flops(self._dims, counts) / max(seconds, 1e-9) / self._peak
        if torch.cuda.is_available():
            values["memory/peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return values


def sharing(counts: TokenCounts, ran: int) -> float:
    """Return how many times fewer positions were run than with a prompt per completion: 1 for the padded layout."""
    return counts.processed_unshared / ran


def padding(counts: TokenCounts, ran: int, *, shared: bool) -> float:
    """Return the share of the run positions that the layout did not need: padding, and repeats of cut groups."""
    return 1 - (counts.processed if shared else counts.processed_unshared) / ran


def token_rates(values: Mapping[str, float]) -> dict[str, float]:
    """Return tokens per second over all ranks and phases of a step, from its metrics.

    Distinct tokens, and the tokens that a trainer that repeats the prompt has to run for the same groups. Nothing where
    the step had no groups.

    >>> token_rates({"time/step": 2.0, "count/prompt_tokens": 400, "count/completion_tokens": 384,
    ...              "count/equivalent_tokens": 3584})
    {'perf/tokens_per_second': 392.0, 'perf/equivalent_per_second': 1792.0}
    """
    if "count/equivalent_tokens" not in values:
        return {}
    seconds = max(values["time/step"], 1e-9)
    distinct = values["count/prompt_tokens"] + values["count/completion_tokens"]
    return {
        "perf/tokens_per_second": distinct / seconds,
        "perf/equivalent_per_second": values["count/equivalent_tokens"] / seconds,
    }


def matmul_peak(
    device: torch.device, dtype: torch.dtype, *, products: Sequence[Product] | None = None, repeats: int = 3
) -> float:
    """Return the speed of the fastest of some matrix products, in operations per second: what MFU is a share of.

    Random numbers, since zeros can be faster; the best of `repeats`, since other load only slows a product.
    """
    best, stream = 0.0, torch.Generator(device).manual_seed(0)  # its own: a measurement must not change what is drawn
    for m, k, n in products or QUICK[device.type]:
        left_MK = torch.randn(m, k, device=device, generator=stream).to(dtype)
        right_KN = torch.randn(k, n, device=device, generator=stream).to(dtype)
        out_MN = left_MK @ right_KN  # the first call loads libraries
        for _ in range(repeats):
            synchronize(device)
            started = time.perf_counter()
            torch.mm(left_MK, right_KN, out=out_MN)
            synchronize(device)
            best = max(best, 2.0 * m * k * n / (time.perf_counter() - started))
    return best


def synchronize(device: torch.device) -> None:
    """Wait for a GPU, whose calls return before their work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def attention_flops(dims: ModelDims, counts: TokenCounts) -> float:
    """Return the forward operations of q k and of the weighted sum of v: a product and an addition each, per pair."""
    return 4.0 * dims.layers * dims.attention * counts.pairs


def _triangle(count: int) -> int:
    return count * (count + 1) // 2
