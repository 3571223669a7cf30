"""The [policy], [optim] and [loss] sections of a recipe -> the policy engine, its number format and its meter."""

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from grpo.distributed.communicator import Communicator, check_divisible
from grpo.errors import UserError
from grpo.policy.nonfinite import NonFiniteLog
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.zero_config import zero_config
from grpo.settings import LossConfig, PolicyConfig
from grpo.telemetry.console import Console
from grpo.telemetry.throughput import ThroughputMeter, matmul_peak
from grpo.types import SamplingConfig
from launch.builders.models import device, load_model
from launch.config.model_size import ModelSize, UnknownModelSize, find_size
from launch.config.recipe import ModelConfig

if TYPE_CHECKING:  # commands read this file before they load torch
    from grpo.policy.engine import Policy

Dtype = Literal["float32", "bfloat16"]

# Nats per token that rounding may explain. In float32 the embedded model's engines agree to 2e-5, and a tied head that
# is stale is off by 0.029, which the limit of bfloat16 would let pass.
ROUNDING: dict[Dtype, float] = {"float32": 0.005, "bfloat16": 0.05}


def choose_dtype(config: PolicyConfig) -> Dtype:
    """Return what policy.dtype is here. Trainer and vLLM both run in it; the hf engine is always float32."""
    import torch

    from grpo.policy.precision import resolve_bf16

    return "bfloat16" if resolve_bf16(config.dtype, torch.device(device())) else "float32"


def choose_logprob_gap(loss: LossConfig, policy: PolicyConfig, *, top_p: float) -> float:
    """Return the nats per token by which sampler and trainer may differ, on average over an update."""
    limit = ROUNDING[choose_dtype(policy)] if loss.max_logprob_gap == "auto" else loss.max_logprob_gap
    # A nucleus renormalizes the sampler's probabilities: each is higher than the trainer's by up to 1 / top_p.
    return limit - math.log(top_p)


def resolve_backend(config: PolicyConfig, ranks: int) -> Literal["torch", "deepspeed"]:
    """Return the backend of the policy over so many ranks. Raises UserError if the section's cannot be used."""
    offload = f'policy.offload = "{config.offload}"' if config.offload != "none" else ""
    needed = f"{ranks} ranks" if ranks > 1 else offload
    if config.backend == "torch" and (wrong := needed or ("policy.zero_stage = 3" if config.zero_stage == 3 else "")):
        raise UserError(f'policy.backend = "torch" is not for {wrong}; valid: "deepspeed" or "auto"')
    if config.backend != "deepspeed" and not needed:
        return "torch"
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f'policy.backend = "deepspeed"{", for " + needed if needed else ""}: DeepSpeed is not installed (make '
            'setup says why); valid without it: one rank and policy.offload = "none"'
        )
    return "deepspeed"


def check_ranks(policy: PolicyConfig, sampling: SamplingConfig, loss: LossConfig, ranks: int) -> None:
    """Raise UserError, before anything heavy loads, where the ranks cannot share a step's groups."""
    resolve_backend(policy, ranks)
    check_divisible(sampling.prompts_per_step, ranks, "sampling.prompts_per_step")
    groups = sampling.prompts_per_step // ranks
    if loss.updates_per_step > groups:
        raise UserError(
            f"loss.updates_per_step = {loss.updates_per_step} parts cannot be made of the {groups} groups of a rank; "
            "at most that many"
        )


def make_policy(
    config: PolicyConfig,
    optim: AdamWConfig,
    folder: str,
    *,
    updates: int,
    console: Console,
    comm: Communicator,
    meter: ThroughputMeter,
    temperature: float = 1.0,
    reference: bool = False,
    nonfinite: NonFiniteLog | None = None,
) -> "Policy":
    """Return the policy over the weights in `folder`, followed by `meter`, for that many updates."""
    from grpo.model.policy_model import PolicyModel
    from grpo.policy.engine import Policy

    console.status(f"loading the policy, {folder}")
    load, make_backend = _loader_and_backend(config, optim, folder, console, comm)
    model = load()
    meter.counter.attach(model)
    policy_model = PolicyModel(
        model,
        layout=config.layout,
        temperature=temperature,
        gradient_checkpointing=config.gradient_checkpointing,
        reference=load() if reference else None,
    )
    policy = Policy(
        make_backend(policy_model, optim),
        total_updates=updates,
        token_budget=config.token_budget,
        comm=comm,
        nonfinite=nonfinite,
        progress=console.status,
    )
    meter.shared = policy.layout == "shared"  # what "auto" is for this model
    return policy


def _loader_and_backend(
    config: PolicyConfig, optim: AdamWConfig, folder: str, console: Console, comm: Communicator
) -> tuple[Callable[[], Any], Callable[..., Any]]:
    """Return what loads the weights in `folder`, and what makes the backend that updates them."""
    dtype = choose_dtype(config)
    load = partial(load_model, folder, device=device())
    if resolve_backend(config, comm.world) == "torch":
        from grpo.policy.torch_backend import TorchBackend

        console.line("updates      one process, plain torch")
        return load, partial(TorchBackend, dtype=dtype)
    from grpo.policy.deepspeed_backend import DeepSpeedBackend, init_deepspeed

    init_deepspeed()
    console.line(f"updates      ZeRO-{config.zero_stage}, {comm.world} ranks")
    bf16 = dtype == "bfloat16"
    sharding = zero_config(config, optim, bf16=bf16, world=comm.world) if config.zero_stage == 3 else None
    return partial(load, bf16=bf16, sharding=sharding), partial(DeepSpeedBackend, config=config, comm=comm)


def make_meter(config: PolicyConfig, model: ModelConfig, folder: str) -> ThroughputMeter:
    """Return this rank's meter for the model in `folder`. The fastest matrix product is measured here and now.

    perf/mfu is left out for a model whose parameters are not counted.
    """
    import torch

    sizes = _sizes(model, folder)
    dtype = torch.bfloat16 if choose_dtype(config) == "bfloat16" else torch.float32
    peak = None if sizes is None else matmul_peak(torch.device(device()), dtype)
    return ThroughputMeter(shared=config.layout != "padded", dims=sizes, peak=peak)


def _sizes(model: ModelConfig, folder: str) -> ModelSize | None:
    """Return the sizes of the weights that are trained where their config.json is on disk, else the recipe's."""
    try:
        return find_size(folder if Path(folder).is_dir() else model.name, model.config)[0]
    except UnknownModelSize:
        return None
