"""The seam to whatever owns the trainable weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from torch import Tensor

from grpo.batch import Batch
from grpo.losses import Loss, Stats
from grpo.policy.optimizer_state import HostBuffers, OptimizerSnapshot


class PolicyEngine(Protocol):
    """Owns the trainable weights, the frozen reference, the optimizer and its schedule.

    Contract, tested for every engine: `update` follows the gradient of the *sum* of the loss over all rows of all
    ranks. Whatever a backend averages the engine undoes; no caller ever multiplies by a world size. Micro-batching,
    devices, dtypes and memory live inside.
    """

    def logprobs(self, batch: Batch, *, reference: bool = False) -> Tensor:
        """Log-probabilities of the completion tokens, no gradient: float32 [B, C] on the CPU, 0 outside `learn_BC`."""
        ...

    def update(self, batch: Batch, loss: Loss) -> Stats:
        """One optimizer step on a weighed batch; per-token means of the statistics, gradient norm, learning rate.

        If no row anywhere teaches (Adam would move on a zero gradient), the weights stay as they are, the schedule
        advances, and `skipped` is 1. So too, with `nonfinite` 1 and no other statistics, on all ranks together, where
        the loss, a log-probability or the gradient of any rank is not finite.
        """
        ...

    def export_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Whole trainable tensors, one at a time, under the names of the model hub; tied ones once.

        A tensor keeps its values for as long as it is held: vLLM holds the parts of a layer (q, k, v) until it has all.
        """
        ...

    def save(self, path: Path) -> None:
        """Write a model folder that transformers and vLLM load (weights and configuration; safetensors)."""
        ...

    @property
    def num_updates(self) -> int:
        """Calls of `update` so far, those of an earlier run that was gone on with included."""
        ...

    @property
    def num_steps_applied(self) -> int:
        """Those since the engine was made that have changed the weights."""
        ...

    def snapshot_state(self, copies: HostBuffers | None = None) -> OptimizerSnapshot:
        """A copy in main memory of this rank's share of the optimizer's state and of the place in the schedule; in that
        of the `copies` before it, which then are no more, where these are given.

        What `grpo.policy.optimizer_state.write` makes of the shares of all ranks, `load_state` reads. The weights
        may move on
        while it is written.
        """
        ...

    def load_state(self, path: Path) -> None:
        """Go on from the state in the folder `path`, bitwise in float32. UserError for that of another model."""
        ...


class Delegate:
    """`PolicyEngine` that leaves all to another one; who adds something to a method says so in a subclass."""

    def __init__(self, policy: PolicyEngine) -> None:
        self._policy = policy

    def logprobs(self, batch: Batch, *, reference: bool = False) -> Tensor:
        return self._policy.logprobs(batch, reference=reference)

    def update(self, batch: Batch, loss: Loss) -> Stats:
        return self._policy.update(batch, loss)

    def export_weights(self) -> Iterator[tuple[str, Tensor]]:
        return self._policy.export_weights()

    def save(self, path: Path) -> None:
        self._policy.save(path)

    @property
    def num_updates(self) -> int:
        return self._policy.num_updates

    @property
    def num_steps_applied(self) -> int:
        return self._policy.num_steps_applied

    def snapshot_state(self, copies: HostBuffers | None = None) -> OptimizerSnapshot:
        return self._policy.snapshot_state(copies)

    def load_state(self, path: Path) -> None:
        self._policy.load_state(path)
