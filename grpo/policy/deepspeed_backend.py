"""The policy over DeepSpeed ZeRO 1, 2 or 3: its state sharded over ranks, its step the same as one process's.

The only file that imports DeepSpeed. Its configuration is made in `zero_config.py`.
"""

import logging
import os
import warnings
from collections.abc import Iterable, Mapping
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
from grpo.model.policy_model import PolicyModel
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.optimizer_state import MOMENTS
from grpo.policy.precision import resolve_bf16
from grpo.policy.zero_config import reference_config, zero_config
from grpo.settings import PolicyConfig


class DeepSpeedBackend:
    """`Backend` over DeepSpeed ZeRO. In bfloat16 the weights themselves are bfloat16, beside float32 masters."""

    def __init__(self, model: PolicyModel, optim: AdamWConfig, *, config: PolicyConfig, comm: Communicator) -> None:
        init_deepspeed()
        self.model, self.optim, self._comm = model, optim, comm
        bf16 = resolve_bf16(config.dtype, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = "bfloat16" if bf16 else "float32"
        self._engine = _initialize(model, zero_config(config, optim, bf16=bf16, world=comm.world))
        model.prepare(gather=deepspeed.zero.GatheredParameters if config.zero_stage == 3 else None)
        if config.zero_stage == 3 or config.offload != "none":
            frozen_config = reference_config(config, bf16=bf16, world=comm.world)
            model.wrap_reference(lambda frozen: _initialize(frozen, frozen_config))
        else:
            model.wrap_reference(lambda frozen: frozen.to(torch.bfloat16 if bf16 else torch.float32))

    def forward(self, batch: Batch, *, reference: bool = False) -> tuple[Tensor, Tensor]:
        if not reference:
            return self._engine(batch)
        with self.model.reference() as frozen:
            return frozen(batch)

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * self._comm.world)  # DeepSpeed takes the mean over ranks: undone here

    def step(self, lr: float) -> float | None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        if self._engine.was_step_applied():
            return float(self._engine.get_global_grad_norm())
        sharded = self._engine.optimizer
        if getattr(sharded, "cpu_offload", False):  # else DeepSpeed adds the next gradient to the skipped one, in bf16
            sharded.averaged_gradients = dict.fromkeys(sharded.averaged_gradients)
        return None

    def optimizer_state(self, parameter: Any, *, moments: bool) -> Mapping[str, Tensor]:
        state: dict[str, Any] = {"master": safe_get_full_fp32_param(parameter)}
        for key in MOMENTS if moments else ():
            state[key] = safe_get_full_optimizer_state(parameter, key)
        return state

    def load_optimizer_state(self, states: Iterable[tuple[Any, Mapping[str, Tensor]]], *, num_steps: int) -> None:
        if num_steps:
            self._make_adam_state(num_steps)
        for parameter, tensors in states:
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data.copy_(tensors["master"])
            for key in ("master", *(MOMENTS if num_steps else ())):
                self._set(parameter, tensors[key].to(parameter.device), key)

    def _make_adam_state(self, steps: int) -> None:
        """Create the state that Adam would create at its first step, so that it can be filled."""
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
        """Set this rank's share of the float32 weights ("master") or of a moment."""
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


def _initialize(model: PolicyModel, config: dict[str, Any]) -> Any:
    """A DeepSpeed engine over the model, with an optimizer if `config` has one."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    initialize: Any = deepspeed.initialize  # its own annotations demand arguments that it does not need
    return initialize(model=model, model_parameters=trained or None, config=config, dist_init_required=False)[0]


def init_deepspeed() -> None:
    """Prepare DeepSpeed before a model is loaded: few log lines, no compiler, a process group for one rank too."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # dozens of lines per engine
    # DeepSpeed calls deprecated names of torch, thousands of times.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    if not torch.cuda.is_available():  # with a GPU the table would probe the compilers of all operators
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled at start, for inference only
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        store = dist.HashStore()  # opens no port  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend(), store=store, rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=None, auto_mpi_discovery=False, verbose=False)
