"""The policy over DeepSpeed ZeRO 1, 2 or 3: its state sharded over ranks, its step the same as one process's.

The only file that imports DeepSpeed. What it is told is in `zero_config.py`.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor

from grpo.batch import Batch
from grpo.distributed.communicator import Communicator
from grpo.distributed.failure_detection import backend
from grpo.losses import Loss, Metrics, Stats, finalize_metrics, merge_metrics
from grpo.model.forward import Layout, LayoutOption, completion_logprobs, micro_batches, resolve_layout
from grpo.model.lm_head import ChunkedHead
from grpo.policy.nonfinite import nan_if_nonfinite
from grpo.policy.optimizer import AdamWConfig, learning_rate
from grpo.policy.optimizer_state import (
    MOMENTS,
    HostBuffers,
    OptimizerSnapshot,
    ParameterState,
    read_counts,
    read_parameter,
)
from grpo.policy.torch_backend import Dtype, disable_dropout, fast_bf16
from grpo.policy.zero_config import ZeroConfig, reference_config, zero_config

# What a rank runs when the others still have rows: one token that nothing is learnt from. ZeRO-3 gathers every layer's
# weights by a collective call, so a rank that sat a micro-batch out would leave the others waiting for ever.
DUMMY_BATCH = Batch(
    prompts=((0,),),
    group_B=torch.zeros(1, dtype=torch.long),
    ids_BC=torch.zeros(1, 1, dtype=torch.long),
    learn_BC=torch.ones(1, 1, dtype=torch.bool),
    advantage_B=torch.zeros(1),
    sampler_logp_BC=torch.zeros(1, 1),
    weight_BC=torch.zeros(1, 1),
)


class Scorer(torch.nn.Module):
    """What DeepSpeed wraps: rows of a batch -> log-probability and entropy of their completion tokens [B, C]."""

    layout: Layout = "padded"  # until the wrapped model has been tried

    def __init__(self, model: Any, *, temperature: float) -> None:
        super().__init__()
        self.model, self._temperature = model, temperature
        self.head = ChunkedHead(model.get_output_embeddings().weight)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return completion_logprobs(self.model, batch, layout=self.layout, temperature=self._temperature, head=self.head)


class ZeroPolicy:
    """`PolicyEngine` over DeepSpeed. Every rank calls every method, in the same order, each with its own rows."""

    def __init__(
        self,
        model: Any,
        *,
        zero: ZeroConfig,
        optim: AdamWConfig,
        updates: int,
        token_budget: int,
        comm: Communicator,
        layout: LayoutOption = "auto",
        temperature: float = 1.0,
        dtype: Dtype = "auto",
        gradient_checkpointing: bool = False,
        reference: Any = None,
        progress: Callable[[str], None] = lambda text: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """As `SinglePolicy`, with how the state is sharded and the ranks to share it with.

        In bfloat16 the weights themselves are held in it, beside float32 masters that the optimizer moves.
        """
        disable_dropout(model)
        self._model, self._optim, self._updates, self._comm = model, optim, updates, comm
        self._budget, self._progress = token_budget, progress
        self._num_updates = self._num_steps_applied = 0
        self._bf16 = uses_bf16(dtype)
        if gradient_checkpointing:
            # Under ZeRO-3 the tensors that a layer saved are shards by the time it is run again, which only the
            # reentrant way does not compare.
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": zero.stage == 3})
        init_deepspeed()
        scorer = Scorer(model, temperature=temperature)
        self._engine = _wrapped(scorer, zero_config(zero, optim, bf16=self._bf16, world=comm.world))
        self.layout: Layout = resolve_layout(
            model, layout, say=say, whole=lambda weight: deepspeed.zero.GatheredParameters([weight])
        )
        scorer.layout = self.layout
        self._engine.train()
        self._reference = None
        if reference is not None:
            scorer = Scorer(reference.eval().requires_grad_(False), temperature=temperature)
            scorer.layout = self.layout
            self._reference = self._frozen(scorer, zero)

    @torch.no_grad()
    def logprobs(self, batch: Batch, *, reference: bool = False) -> Tensor:
        scorer = self._reference if reference else self._engine
        if scorer is None:
            raise ValueError("this engine holds no reference model: it was built for kl = 0")
        logp_BC = torch.zeros(batch.ids_BC.shape)
        scorer.eval()  # no gradient checkpointing where there is no gradient
        for index, part in self._passes(batch):
            part_logp_BC, _ = scorer(part)
            if index:
                logp_BC[index, : part_logp_BC.shape[1]] = part_logp_BC.float().cpu()
        scorer.train(not reference)
        return logp_BC

    def update(self, batch: Batch, loss: Loss) -> Stats:
        lr = learning_rate(self._optim, update=self._num_updates, updates=self._updates)
        self._num_updates += 1
        passes = self._passes(batch)
        if not passes:
            return {"lr": lr, "skipped": 1.0}
        total: Metrics = {}
        for number, (index, part) in enumerate(passes):
            self._progress(f"update: micro-batch {number + 1} of {len(passes)}")
            self._engine.set_gradient_accumulation_boundary(number + 1 == len(passes))
            logp_BC, entropy_BC = self._engine(part)
            if index:
                part_loss, stats = loss(logp_BC.float().cpu(), entropy_BC.float().cpu(), part)
                total = merge_metrics(total, stats)
            else:
                part_loss = 0.0 * logp_BC.float().cpu().sum()
            part_loss = nan_if_nonfinite(part_loss, logp_BC)
            self._engine.backward(part_loss * self._comm.world)  # DeepSpeed takes the mean over ranks: undone here
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        stats = finalize_metrics(reduce(merge_metrics, self._comm.gather([total])))
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if not self._engine.was_step_applied():  # the gradient was not finite
            return {"lr": lr, "skipped": 1.0, "nonfinite": 1.0}
        self._num_steps_applied += 1
        return stats | {"grad_norm": norm, "lr": lr, "skipped": 0.0}

    def export_weights(self) -> Iterator[tuple[str, Tensor]]:
        """On every rank; under ZeRO-3 a tensor is gathered when it is asked for, and freed when nobody holds it."""
        for name, parameter in self._model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                yield name, parameter.detach()

    def save(self, path: Path) -> None:
        """Rank 0 writes; the others help it to gather. It then holds the whole model in the CPU's memory."""
        whole = {name: tensor.cpu().clone() for name, tensor in self.export_weights() if self._comm.rank == 0}
        if self._comm.rank == 0:
            kept = self._model.state_dict().keys()  # of the buffers only some belong into a file
            whole |= {name: buffer for name, buffer in self._model.named_buffers() if name in kept}
            self._model.save_pretrained(path, state_dict=whole, safe_serialization=True)
        self._comm.barrier()

    @property
    def num_updates(self) -> int:
        return self._num_updates

    @property
    def num_steps_applied(self) -> int:
        return self._num_steps_applied

    def snapshot_state(self, copies: HostBuffers | None = None) -> OptimizerSnapshot:
        """As the protocol says; the ranks take turns, so that each holds whole tensors of its share of parameters."""
        parameters, steps, kept = list(self._model.named_parameters()), self._adam_steps(), {}
        copies = copies or HostBuffers()
        for number, (_, parameter) in enumerate(parameters):
            tensors: dict[str, Any] = {"master": safe_get_full_fp32_param(parameter)}
            if steps:
                tensors |= {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            if number % self._comm.world == self._comm.rank:
                kept[number] = ParameterState(
                    {key: copies.copy(number, key, each) for key, each in tensors.items()}, steps
                )
        return OptimizerSnapshot(updates=self._num_updates, names=tuple(name for name, _ in parameters), pieces=kept)

    def load_state(self, path: Path) -> None:
        """As the protocol says, whatever the ranks were and whichever engine wrote it."""
        parameters = list(self._model.named_parameters())
        self._num_updates, steps = read_counts(path, parameters=len(parameters))
        if steps:
            self._make_adam_state(steps)
        for number, (name, parameter) in enumerate(parameters):
            piece = read_parameter(path, number, name, _shape(parameter))
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data.copy_(piece.tensors["master"])
            for key, tensor in piece.tensors.items():
                self._set(parameter, tensor.to(parameter.device), key)

    def _passes(self, batch: Batch) -> list[tuple[list[int], Batch]]:
        """The micro-batches of this rank, as many as the rank with most has: row indices, which are none for an idle
        one, and rows. Empty where no rank has any."""
        plan = micro_batches(batch, layout=self.layout, token_budget=self._budget)
        most = max(self._comm.gather([len(plan)]))
        parts = [(index, batch.rows(index)) for index in plan]
        return parts + [([], DUMMY_BATCH)] * (most - len(parts))

    def _frozen(self, scorer: Scorer, zero: ZeroConfig) -> Any:
        """The reference model: whole on every rank, or sharded where the policy's weights are sharded or offloaded."""
        if zero.stage < 3 and zero.offload == "none":
            return scorer.to(torch.bfloat16 if self._bf16 else torch.float32)
        return _wrapped(scorer, reference_config(zero, bf16=self._bf16, world=self._comm.world))

    def _adam_steps(self) -> int:
        """Steps that the optimizer has taken: less than the updates by those that were skipped."""
        states = self._engine.optimizer.optimizer.state.values()
        return max((int(state["step"]) for state in states if "step" in state), default=0)

    def _make_adam_state(self, steps: int) -> None:
        """What the optimizer would make at its first step, so that it can be filled in."""
        sharded = self._engine.optimizer
        adam = sharded.optimizer
        shards = [shard for group in adam.param_groups for shard in group["params"]]
        if hasattr(sharded, "fp32_partitioned_groups_flat"):  # ZeRO-3 shows them to Adam for the time of a step only
            shards = sharded.fp32_partitioned_groups_flat
        for shard in shards:
            adam.state[shard] = {key: torch.zeros_like(shard) for key in MOMENTS}
            adam.state[shard]["step"] = torch.tensor(float(steps), device=shard.device)
        if hasattr(sharded, "_lazy_init_hp_params_optimizer_state"):  # stages 1 and 2
            sharded._lazy_init_hp_params_optimizer_state()

    def _set(self, parameter: Any, whole: Tensor, key: str) -> None:
        """This rank's share of the float32 weights ("master") or of a moment."""
        if not hasattr(parameter, "ds_tensor"):
            parameter.set_full_hp_param(whole.float(), None if key == "master" else key)
            return
        share = torch.zeros(parameter.ds_tensor.numel() * self._comm.world, device=whole.device)
        share[: whole.numel()] = whole.flatten()  # ZeRO-3 pads every tensor until it can be shared equally
        share = share.view(self._comm.world, -1)[self._comm.rank]
        if key == "master":
            safe_set_local_fp32_param(parameter, share)
        else:
            safe_set_local_optimizer_state(parameter, share, key)


def _wrapped(scorer: Scorer, config: dict[str, Any]) -> Any:
    """A DeepSpeed engine; with an optimizer where the configuration has one. Its own types name every kind there is."""
    trained = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    initialize: Any = deepspeed.initialize
    return initialize(model=scorer, model_parameters=trained or None, config=config, dist_init_required=False)[0]


def _shape(parameter: Any) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))  # a ZeRO-3 shard itself has the shape [0]


def uses_bf16(dtype: Dtype) -> bool:
    """Whether the weights are held in bfloat16: where this machine is fast at it, or the recipe says so."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return dtype == "bfloat16" or (dtype == "auto" and fast_bf16(device))


def init_deepspeed() -> None:
    """What DeepSpeed needs before a model is loaded for it: fewer lines from it, no compiler, and a process group also
    where there is one rank only."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it tells dozens of lines about itself per engine
    # It calls torch by names that are on their way out, thousands of times.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled at start on CPUs, for inference only
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        store = dist.HashStore()  # opens no port  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend(), store=store, rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=None, auto_mpi_discovery=False, verbose=False)
