"""What DeepSpeed is told: ZeRO settings -> its configuration, a pure function that needs no DeepSpeed."""

from dataclasses import dataclass
from typing import Any, Literal

from grpo.errors import UserError
from grpo.policy.optimizer import AdamWConfig

Stage = Literal[1, 2, 3]
Offload = Literal["none", "optimizer", "all"]

BUCKET = 50_000_000  # elements that are reduced or gathered at once: 200 MB in float32, and DeepSpeed keeps two


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroConfig:
    """How the policy is spread over the ranks.

    Stage 1 shards the optimizer's state, 2 the gradients as well, 3 the weights as well. `offload` keeps the state of
    the optimizer, or with "all" (stage 3 only) the weights as well, in the memory of the CPU.
    """

    stage: Stage = 2
    offload: Offload = "none"

    def __post_init__(self) -> None:
        if self.offload == "all" and self.stage != 3:
            raise UserError(
                f'policy.offload = "all" takes the weights too, which policy.zero_stage = {self.stage} does not shard; '
                'valid: policy.zero_stage = 3, or policy.offload = "optimizer"'
            )


def zero_config(zero: ZeroConfig, optim: AdamWConfig, *, bf16: bool, world: int) -> dict[str, Any]:
    """The configuration of the engine that trains.

    One accumulation step is declared whatever the number of micro-batches: the engine says itself which micro-batch is
    the last, so nothing is divided by a count. The learning rate is set before every step.
    """
    optimizer: dict[str, Any] = {
        "lr": optim.lr,
        "betas": list(optim.betas),
        "eps": 1e-8,
        "weight_decay": optim.weight_decay,
        "torch_adam": True,  # DeepSpeed's own would be compiled at start
        "fused": True,  # as fast as those, on a CPU too
    }
    sharding: dict[str, Any] = {
        "stage": zero.stage,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if zero.offload != "none":
        sharding["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if zero.stage == 3:
        sharding |= _stage_3(zero)
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": world,
        "gradient_clipping": optim.max_grad_norm,
        "optimizer": {"type": "AdamW", "params": optimizer},
        "zero_optimization": sharding,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW steps on a CPU without a compiler
        **_precision(bf16),
    }


def reference_config(zero: ZeroConfig, *, bf16: bool, world: int) -> dict[str, Any]:
    """The configuration of a frozen model that is sharded over the ranks, on the CPU where the policy is offloaded."""
    sharding: dict[str, Any] = {"stage": 3, **_stage_3(zero)}
    if zero.offload != "none":
        sharding["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world,
        "zero_optimization": sharding,
        **_precision(bf16),
    }


def _stage_3(zero: ZeroConfig) -> dict[str, Any]:
    sharding: dict[str, Any] = {
        "stage3_prefetch_bucket_size": BUCKET,
        "stage3_param_persistence_threshold": 100_000,  # norms stay whole: gathering them costs more than holding them
    }
    if zero.offload == "all":
        sharding["offload_param"] = {"device": "cpu", "pin_memory": True}
    return sharding


def _precision(bf16: bool) -> dict[str, Any]:
    """In bfloat16 the master weights and the sums of gradients, over micro-batches and over ranks, stay float32."""
    if not bf16:
        return {"bf16": {"enabled": False}}
    return {
        "bf16": {"enabled": True, "check_grad_overflow": True},  # a gradient that is not finite skips the step
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
    }
