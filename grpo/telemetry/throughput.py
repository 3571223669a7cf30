"""How fast was the step, and how much of it was useful? The numbers under perf/ in metrics.jsonl.

The decoder's positions are counted where they run, by a hook, so that no engine and no layout reports its own speed.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from grpo.telemetry.flops import Sizes, Work, needed_flops
from grpo.telemetry.speed import padding, sharing

Product = tuple[int, int, int]
"""[m, k] times [k, n]"""

# A fifth of a second each on two cores, a thousandth on a GPU, and large enough to be as fast as larger ones.
QUICK: dict[str, tuple[Product, ...]] = {"cpu": ((2048, 2048, 2048),), "cuda": ((8192, 8192, 8192),)}


class ForwardTokenCounter:
    """How many positions a model's decoder has run for a gradient, padding and repeated prompts included."""

    def __init__(self) -> None:
        self._count = self._calls = 0

    def follow(self, model: Any) -> None:
        """Count in this model from now on."""
        model.get_decoder().register_forward_pre_hook(self._add, with_kwargs=True)

    def take(self) -> tuple[int, int]:
        """(positions, calls of the decoder) since the last time."""
        taken = self._count, self._calls
        self._count = self._calls = 0
        return taken

    def state_dict(self) -> dict[str, int]:
        """What was counted since the last time."""
        return {"positions": self._count, "calls": self._calls}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """It was counted by another process."""
        self._count, self._calls = self._count + state["positions"], self._calls + state["calls"]

    def _add(self, module: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if torch.is_grad_enabled():  # not the passes for old log-probabilities
            self._count += named["input_ids"].numel()
            self._calls += 1


class ThroughputMeter:
    """Turns a step's work and seconds into perf/mfu, perf/sharing and perf/padding of this rank's update."""

    def __init__(self, *, shared: bool, sizes: Sizes | None, peak: float | None) -> None:
        """`shared`: whether the layout runs a prompt once per group. `peak` is of this rank, in operations a second;
        without it or the model's sizes there is no MFU."""
        self.positions = ForwardTokenCounter()
        self.shared, self._sizes, self._peak = shared, sizes, peak

    def read(self, work: Work, seconds: float) -> dict[str, float]:
        """The numbers of an update of `work` that took so many seconds; none where nothing was updated."""
        ran, _ = self.positions.take()
        if not work.completions or not ran:
            return {}
        values = {"perf/sharing": sharing(work, ran), "perf/padding": padding(work, ran, shared=self.shared)}
        if self._sizes is not None and self._peak:
            values["perf/mfu"] = needed_flops(self._sizes, work) / max(seconds, 1e-9) / self._peak
        if torch.cuda.is_available():
            values["memory/peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return values


def matmul_peak(
    device: torch.device, dtype: torch.dtype, *, products: Sequence[Product] | None = None, repeats: int = 3
) -> float:
    """The fastest of some matrix products, in operations a second: what MFU is a share of.

    Random numbers, since zeros can be faster; the best of `repeats`, since a machine is never quicker than it is.
    """
    best, stream = 0.0, torch.Generator(device).manual_seed(0)  # of its own: to measure must not change what is drawn
    for m, k, n in products or QUICK[device.type]:
        left_MK = torch.randn(m, k, device=device, generator=stream).to(dtype)
        right_KN = torch.randn(k, n, device=device, generator=stream).to(dtype)
        out_MN = left_MK @ right_KN  # the first call loads what is loaded late
        for _ in range(repeats):
            synchronize(device)
            started = time.perf_counter()
            torch.mm(left_MK, right_KN, out=out_MN)
            synchronize(device)
            best = max(best, 2.0 * m * k * n / (time.perf_counter() - started))
    return best


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told: a GPU's calls return before it has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
