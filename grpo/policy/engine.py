"""The policy: one update and one state for every backend."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.distributed.communicator import Communicator
from grpo.losses import Loss, Metrics, Stats, StatsCheck, finalize_metrics, merge_metrics
from grpo.model.forward import Layout, micro_batches
from grpo.model.policy_model import PolicyModel
from grpo.policy.nonfinite import NonFiniteLog, nan_if_nonfinite
from grpo.policy.optimizer import AdamWConfig, learning_rate
from grpo.policy.optimizer_state import HostBuffers, OptimizerSnapshot, read_counters, read_parameter

# Run by a rank while the others still have rows: one token that nothing is learnt from. ZeRO-3 gathers the weights of
# every layer by a collective call, so a rank that sat a micro-batch out would leave the others waiting for ever.
DUMMY_BATCH = Batch(
    prompts=((0,),),
    group_B=torch.zeros(1, dtype=torch.long),
    ids_BC=torch.zeros(1, 1, dtype=torch.long),
    learn_BC=torch.ones(1, 1, dtype=torch.bool),
    advantage_B=torch.zeros(1),
    sampler_logp_BC=torch.zeros(1, 1),
    weight_BC=torch.zeros(1, 1),
)


class Backend(Protocol):
    """What differs between one process and DeepSpeed: forward, backward, step, and where the state is."""

    model: PolicyModel
    optim: AdamWConfig
    dtype: str  # of the matrix products: "float32" or "bfloat16"

    def forward(self, batch: Batch, *, reference: bool = False) -> tuple[Tensor, Tensor]:
        """(logp_BC, entropy_BC) of the policy or its reference, on the device of the model."""
        ...

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradient of this rank's loss to the sum over ranks; `is_last` of the micro-batches of an update."""
        ...

    def step(self, lr: float) -> float | None:
        """Clip, step and clear the gradient; its norm, or None (and no step) if the norm is not finite on any rank."""
        ...

    def optimizer_state(self, parameter: Any, *, moments: bool) -> Mapping[str, Tensor]:
        """Whole float32 tensors of one parameter, on every rank: "master", and Adam's `moments` if there are any."""
        ...

    def load_optimizer_state(self, states: Iterable[tuple[Any, Mapping[str, Tensor]]], *, num_steps: int) -> None:
        """Set (parameter, its whole tensors) after `num_steps` steps of Adam."""
        ...


class Policy:
    """Owner of the trainable weights, the frozen reference, the optimizer and its schedule, over a backend.

    Every rank calls every method, in the same order, each with its own rows. `update` follows the gradient of the
    *sum* of the loss over all rows of all ranks: no caller multiplies by a world size. Losses are computed in float32
    on the CPU, where the batch is.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        total_updates: int,
        token_budget: int,
        comm: Communicator | None = None,
        nonfinite: NonFiniteLog | None = None,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`total_updates` is the length of the learning rate schedule; `token_budget` model tokens per micro-batch.

        `nonfinite` saves the rows of updates that are not finite and ends the run after several in a row; without it
        such updates are only skipped. `progress` receives a status line several times per update.
        """
        self._backend, self._total_updates, self._token_budget = backend, total_updates, token_budget
        self._comm, self._nonfinite, self._progress = comm or Communicator(), nonfinite, progress
        self.num_updates = 0  # calls of `update`, those before a resume included
        self.num_steps_applied = 0  # updates that moved the weights, those before a resume included
        self.num_nonfinite = 0  # updates in a row, up to the last, that were not finite

    @property
    def layout(self) -> Layout:
        """The layout that the model is run in."""
        return self._backend.model.layout

    @torch.no_grad()
    def logprobs(self, batch: Batch, *, reference: bool = False) -> Tensor:
        """Return log-probabilities of the completion tokens, without gradient: float32 [B, C] on the CPU.

        Entries outside `learn_BC` are 0. Raises ValueError for a reference that was not loaded.
        """
        logp_BC = torch.zeros(batch.ids_BC.shape)
        self._backend.model.eval()  # no gradient checkpointing
        for index, part in self._aligned_micro_batches(batch):
            part_logp_BC, _ = self._backend.forward(part, reference=reference)
            if index:
                logp_BC[index, : part_logp_BC.shape[1]] = part_logp_BC.float().cpu()
        self._backend.model.train()
        return logp_BC

    def update(self, batch: Batch, loss: Loss, *, before_step: StatsCheck = lambda stats: None) -> Stats:
        """Make one optimizer step; return token means of the statistics, `grad_norm`, `lr` and `skipped`.

        If no rank has rows, the weights stay, the schedule advances and `skipped` is 1: Adam would move on a zero
        gradient. The same holds, with `nonfinite` 1 and no other statistics, if a loss, a log-probability or a gradient
        of any rank is not finite. `before_step` sees the means of a finite update before the weights move.
        """
        lr = learning_rate(self._backend.optim, update=self.num_updates, updates=self._total_updates)
        self.num_updates += 1
        parts = self._aligned_micro_batches(batch)
        if not parts:
            self.num_nonfinite = 0
            return {"lr": lr, "skipped": 1.0}
        stats, is_finite = self._accumulate_gradient(parts, loss)
        if is_finite:
            before_step(stats)
        grad_norm = self._backend.step(lr)
        if grad_norm is None:
            self.num_nonfinite += 1
            if self._nonfinite:
                about = {"update": self.num_updates - 1, "rank": self._comm.rank, "in_a_row": self.num_nonfinite}
                self._nonfinite.save(batch, self.export_weights(), dtype=self._backend.dtype, **about)
            return {"lr": lr, "skipped": 1.0, "nonfinite": 1.0}
        self.num_nonfinite = 0
        self.num_steps_applied += 1
        return stats | {"grad_norm": grad_norm, "lr": lr, "skipped": 0.0}

    def export_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield whole tensors one at a time, under the names of the model hub; tied tensors once.

        Under ZeRO-3 a tensor is gathered on demand and freed when nobody holds it: vLLM holds q, k and v of a layer
        until it has all.
        """
        return self._backend.model.export_weights()

    def save(self, path: Path) -> None:
        """Write a model folder that transformers and vLLM load: weights in safetensors, and configuration.

        Rank 0 writes, and holds the whole model in CPU memory; the others help to gather it.
        """
        weights = {name: tensor.cpu().clone() for name, tensor in self.export_weights() if self._comm.rank == 0}
        if self._comm.rank == 0:
            self._backend.model.save_pretrained(path, weights)
        self._comm.barrier()

    def snapshot_state(self, buffers: HostBuffers | None = None) -> OptimizerSnapshot:
        """Copy this rank's share of the optimizer state to CPU memory; the weights may move while it is written.

        Rank r keeps whole tensors of every world-size-th parameter. Given `buffers` are reused, which overwrites the
        previous snapshot in them.
        """
        parameters, tensors = self._backend.model.trainable_parameters(), {}
        buffers = buffers or HostBuffers()
        for number, (_, parameter) in enumerate(parameters):
            state = self._backend.optimizer_state(parameter, moments=self.num_steps_applied > 0)
            if number % self._comm.world == self._comm.rank:
                tensors[number] = {key: buffers.copy(number, key, tensor) for key, tensor in state.items()}
        return OptimizerSnapshot(
            num_updates=self.num_updates,
            num_steps_applied=self.num_steps_applied,
            num_nonfinite=self.num_nonfinite,
            names=tuple(name for name, _ in parameters),
            tensors=tensors,
        )

    def load_state(self, path: Path) -> None:
        """Resume from the folder `path`, bitwise in float32, whatever the ranks were and whichever backend wrote it.

        UserError for the state of another model.
        """
        parameters = self._backend.model.trainable_parameters()
        counters = read_counters(path, parameters=len(parameters))
        self.num_updates, self.num_steps_applied, self.num_nonfinite = counters
        moments = self.num_steps_applied > 0
        states = (
            (parameter, read_parameter(path, number, name, parameter, moments=moments))
            for number, (name, parameter) in enumerate(parameters)
        )
        self._backend.load_optimizer_state(states, num_steps=self.num_steps_applied)

    def _accumulate_gradient(self, parts: list[tuple[list[int], Batch]], loss: Loss) -> tuple[Stats, bool]:
        """Run forward and backward over the micro-batches: (means over all ranks, whether all losses are finite)."""
        total: Metrics = {}
        is_finite = True
        for number, (index, part) in enumerate(parts, 1):
            self._progress(f"update: micro-batch {number} of {len(parts)}")
            logp_BC, entropy_BC = self._backend.forward(part)
            logp_BC, entropy_BC = logp_BC.float().cpu(), entropy_BC.float().cpu()
            if index:
                part_loss, metrics = loss(logp_BC, entropy_BC, part)
                total = merge_metrics(total, metrics)
            else:
                part_loss = 0.0 * logp_BC.sum()
            part_loss = nan_if_nonfinite(part_loss, logp_BC)
            is_finite = is_finite and not bool(part_loss.isnan())
            self._backend.backward(part_loss, is_last=number == len(parts))
        everyones = self._comm.gather([(total, is_finite)])
        merged = reduce(merge_metrics, [metrics for metrics, _ in everyones])
        return finalize_metrics(merged), all(finite for _, finite in everyones)

    def _aligned_micro_batches(self, batch: Batch) -> list[tuple[list[int], Batch]]:
        """(row indices, rows) of this rank's micro-batches, filled up with dummies to the number of the busiest rank.

        A dummy has no indices. The list is empty if no rank has rows.
        """
        plan = micro_batches(batch, layout=self.layout, token_budget=self._token_budget)
        most = max(self._comm.gather([len(plan)]))
        parts = [(index, batch.rows(index)) for index in plan]
        return parts + [([], DUMMY_BATCH)] * (most - len(parts))
