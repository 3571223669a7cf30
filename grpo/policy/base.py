"""`PolicyEngine`: the protocol between the loop and the owner of the trainable weights."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.losses import Loss, Stats
from grpo.policy.optimizer_state import HostBuffers, OptimizerSnapshot

Dtype = Literal["auto", "float32", "bfloat16"]

StatsCheck = Callable[[Stats], None]
"""Called with the means over all ranks before the weights move; an exception leaves the weights as they are."""


class PolicyEngine(Protocol):
    """Owner of the trainable weights, the frozen reference, the optimizer and its schedule.

    Every rank calls every method, in the same order, each with its own rows. `update` follows the gradient of the
    *sum* of the loss over all rows of all ranks: no caller multiplies by a world size.
    """

    def logprobs(self, batch: Batch, *, reference: bool = False) -> Tensor:
        """Return log-probabilities of the completion tokens, without gradient: float32 [B, C] on the CPU.

        Entries outside `learn_BC` are 0. Raises ValueError for a reference that was not loaded.
        """
        ...

    def update(self, batch: Batch, loss: Loss, *, before_step: StatsCheck = ...) -> Stats:
        """Make one optimizer step; return token means of the statistics, `grad_norm`, `lr` and `skipped`.

        The weights stay, the schedule advances and `skipped` is 1 if no rank has rows (Adam would move on a zero
        gradient), and, with `nonfinite` 1 and no other statistics, if a loss, a log-probability or a gradient of any
        rank is not finite. `before_step` sees the means of a finite update on all ranks before the weights move.
        """
        ...

    def export_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield whole tensors one at a time, under the names of the model hub; tied tensors once.

        A tensor keeps its values as long as a caller holds it: vLLM holds q, k and v of a layer until it has all.
        """
        ...

    def save(self, path: Path) -> None:
        """Write a model folder that transformers and vLLM load (weights and configuration; safetensors)."""
        ...

    @property
    def num_updates(self) -> int:
        """Calls of `update`, those before a resume included."""
        ...

    @property
    def num_nonfinite(self) -> int:
        """Updates in a row, up to the last, that were not finite."""
        ...

    @property
    def num_steps_applied(self) -> int:
        """Updates that moved the weights, those before a resume included."""
        ...

    def snapshot_state(self, buffers: HostBuffers | None = None) -> OptimizerSnapshot:
        """Copy this rank's share of the optimizer state to CPU memory; the weights may move while it is written.

        Given `buffers` are reused, which overwrites the previous snapshot in them.
        """
        ...

    def load_state(self, path: Path) -> None:
        """Resume from the folder `path`, bitwise in float32. UserError for the state of another model."""
        ...


def resolve_bf16(dtype: Dtype, device: torch.device) -> bool:
    """Whether matrix products are in bfloat16: as `dtype` says, and for "auto" if the device is faster in it.

    A CPU without the instructions emulates them, five times slower (17 against 98 GFLOP/s on two AVX2 cores).
    """
    if dtype != "auto":
        return dtype == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
