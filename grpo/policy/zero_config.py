"""ZeRO settings and the configuration that DeepSpeed gets from them; pure functions that need no DeepSpeed."""

from typing import Any

from grpo.policy.optimizer import AdamWConfig
from grpo.settings import PolicyConfig

BUCKET = 50_000_000  # elements reduced or gathered at once: 200 MB in float32, and DeepSpeed keeps two


def zero_config(policy: PolicyConfig, optim: AdamWConfig, *, bf16: bool, world: int) -> dict[str, Any]:
    """Configuration of the trained engine.

    It declares one accumulation step whatever the number of micro-batches: the backend marks the last micro-batch, so
    nothing is divided by a count. The learning rate is set before every step.
    """
    optimizer: dict[str, Any] = {
        "lr": optim.lr,
        "betas": list(optim.betas),
        "eps": 1e-8,
        "weight_decay": optim.weight_decay,
        "torch_adam": True,  # DeepSpeed compiles its own at start
        "fused": True,  # as fast as DeepSpeed's, on a CPU too
    }
    sharding: dict[str, Any] = {
        "stage": policy.zero_stage,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if policy.offload != "none":
        sharding["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if policy.zero_stage == 3:
        sharding |= _stage_3(policy)
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


def reference_config(policy: PolicyConfig, *, bf16: bool, world: int) -> dict[str, Any]:
    """Configuration of a frozen model that is sharded over the ranks, in CPU memory if the policy is offloaded."""
    sharding: dict[str, Any] = {"stage": 3, **_stage_3(policy)}
    if policy.offload != "none":
        sharding["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world,
        "zero_optimization": sharding,
        **_precision(bf16),
    }


def _stage_3(policy: PolicyConfig) -> dict[str, Any]:
    sharding: dict[str, Any] = {
        "stage3_prefetch_bucket_size": BUCKET,
        "stage3_param_persistence_threshold": 100_000,  # norms stay whole: gathering costs more than memory
    }
    if policy.offload == "all":
        sharding["offload_param"] = {"device": "cpu", "pin_memory": True}
    return sharding


def _precision(bf16: bool) -> dict[str, Any]:
    """Float32, or bfloat16 with float32 master weights and float32 gradient sums over micro-batches and ranks."""
    if not bf16:
        return {"bf16": {"enabled": False}}
    return {
        "bf16": {"enabled": True, "check_grad_overflow": True},  # skips a step that is not finite
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
    }
