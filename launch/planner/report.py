"""Plans of memory and of batches as text, and the verdict on a plan that does not fit."""

import sys
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from grpo.errors import UserError
from grpo.settings import LossConfig, PolicyConfig, RolloutConfig
from grpo.types import SamplingConfig
from launch.config.model_size import ModelSize, find_size
from launch.config.recipe import ModelConfig
from launch.planner.fit import changes, shortage, suggestion
from launch.planner.memory import (
    GB,
    PHASES,
    Devices,
    PlanSettings,
    cache_tokens,
    check,
    host_bytes,
    memory_plan,
    peak,
    phase_bytes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A model's size and its source, the settings, the devices."""

    label: str
    size: ModelSize
    source: str
    settings: PlanSettings
    devices: Devices


def batch_plan(
    sampling: SamplingConfig, loss: LossConfig, policy: PolicyConfig, *, questions: int, steps: int, ranks: int = 1
) -> str:
    """One step and the whole run in numbers."""
    completions = sampling.prompts_per_step * sampling.group_size
    epochs = steps * sampling.prompts_per_step / max(questions, 1)
    return "\n".join(
        [
            f"batch plan   {sampling.prompts_per_step} prompts x {sampling.group_size} samples = {completions} "
            f"completions a step on {ranks} rank{'s' * (ranks > 1)}; {loss.updates_per_step} optimizer step(s) per "
            "rollout",
            f"             completions of at most {sampling.max_tokens} tokens; micro-batches of at most"
            f" {policy.token_budget} tokens, {'padded' if policy.layout == 'padded' else 'shared'} prompts",
            f"             {questions} questions, {steps} steps = {epochs:.1f} epochs,"
            f" {steps * completions} completions in all",
        ]
    )


def make_plan(
    model: ModelConfig,
    sampling: SamplingConfig,
    loss: LossConfig,
    policy: PolicyConfig,
    rollout: RolloutConfig,
    devices: Devices,
) -> Plan:
    """The plan of these sections, with "auto" as it resolves on these devices.

    UserError for settings that are wrong whatever the memory.
    """
    from launch.builders.rollout import auto_engine  # loads torch

    size, source = find_size(model.name, model.config)
    deepspeed = policy.backend == "auto" and (devices.ranks > 1 or policy.offload != "none")
    fast = "bfloat16" if devices.fast_bf16 else "float32"
    auto = "vllm" if devices.kind == "gpu" else auto_engine()
    settings = PlanSettings(
        zero_stage=policy.zero_stage if deepspeed or policy.backend == "deepspeed" else 0,
        offload=policy.offload,
        dtype=fast if policy.dtype == "auto" else policy.dtype,
        gradient_checkpointing=policy.gradient_checkpointing,
        shared=policy.layout != "padded",
        token_budget=policy.token_budget,
        context=model.context,
        max_tokens=sampling.max_tokens,
        prompts=sampling.prompts_per_step,
        group_size=sampling.group_size,
        reference=loss.kl_coef > 0,
        rollout=auto if rollout.engine == "auto" else rollout.engine,
        max_num_seqs=rollout.max_num_seqs,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        cpu_kv_cache_gib=rollout.cpu_kv_cache_gib,
        tensor_parallel=rollout.tensor_parallel,
    )
    check(size, settings, devices)
    return Plan(label=model.label, size=size, source=source, settings=settings, devices=devices)


def announce(plan: Plan, mode: Literal["refuse", "warn"] = "warn") -> None:
    """Print the plan and its verdict."""
    print(heading(plan))
    Console(width=None if sys.stdout.isatty() else 120).print(table(plan))
    print(verdict(plan, mode), flush=True)


def verdict(plan: Plan, mode: Literal["refuse", "warn"] = "warn") -> str:
    """One line on a plan that fits, a warning on one that by an estimate does not.

    Raises UserError, with the nearest settings that fit, where the counted parts alone do not fit, and with "refuse"
    also where the estimate does not.
    """
    s, d = plan.settings, plan.devices
    short = shortage(plan.size, s, d)
    if short is not None:
        message = f"{short.message}; {_advice(plan)}"
        if short.counted or mode == "refuse":
            raise UserError(f"{message}; or --run.plan={'off' if short.counted else 'warn'}")
        return f"warning: {message}"
    need = peak(memory_plan(plan.size, s, d), d) / GB
    line = f"             fits: {need:.1f} of {d.memory / GB:.1f} GB, an estimate"
    if s.rollout == "vllm":
        held = cache_tokens(plan.size, s, d)
        asked = s.prompts * s.group_size * s.tensor_parallel // d.ranks
        most = min(held // s.context, s.max_num_seqs, asked)
        line += f"; vLLM's cache: {held:,} tokens, {most} of {asked} completions at full length at once"
    return line


def _advice(plan: Plan) -> str:
    found = suggestion(plan.size, plan.settings, plan.devices)
    if found is None:
        return "no setting here fits: a smaller model, or more or larger devices"
    need = peak(memory_plan(plan.size, found, plan.devices), plan.devices) / GB
    return f"nearest that fits: {changes(plan.settings, found)} ({need:.1f} GB)"


def heading(plan: Plan) -> str:
    """Two lines: what is planned on which devices, and the numbers that the formulas use."""
    s, d = plan.settings, plan.devices
    engine = f"ZeRO-{s.zero_stage}" if s.zero_stage else "one process"
    engine += {"none": "", "optimizer": ", optimizer offloaded", "all": ", all offloaded"}[s.offload]
    numbers = f"P = {plan.size.parameters:,}, N = {d.ranks}, T = {s.tokens:,}"
    engine += f", {s.dtype}, rollouts by {s.rollout}" + f" over {s.tensor_parallel} GPUs each" * (s.tensor_parallel > 1)
    return (
        f"memory plan  {plan.label} on {_machine(d)}: {engine}\n             {numbers}; size counted from {plan.source}"
    )


def table(plan: Plan) -> Table:
    """A rank's memory in GB: a line per part, a column per phase, and the totals."""
    parts, d = memory_plan(plan.size, plan.settings, plan.devices), plan.devices
    shown = Table(box=box.SIMPLE)
    for name in ("GB a rank", *PHASES, "host", "how"):
        shown.add_column(name, justify="left" if name in ("GB a rank", "how") else "right")
    for part in parts:
        shown.add_row(part.name, *(_gb(getattr(part, phase)) for phase in PHASES), _gb(part.host), part.how)
    shown.add_section()
    totals = [_gb(phase_bytes(parts, phase)) for phase in PHASES]
    how = f"a node's ranks: {host_bytes(parts, d) / GB:.1f} of host" if host_bytes(parts, d) else ""
    shown.add_row("total", *totals, _gb(phase_bytes(parts, "host")), how)
    return shown


def _machine(d: Devices) -> str:
    """In words: `2 nodes x 8 GPUs of 80 GB`."""
    nodes = f"{d.nodes} nodes x " * (d.nodes > 1)
    if d.kind == "gpu":
        return f"{nodes}{d.per_node} GPU{'s' * (d.per_node > 1)} of {d.memory / GB:.0f} GB"
    return f"{nodes}{d.per_node} process{'es' * (d.per_node > 1)} on a CPU, {d.memory / GB:.1f} GB each"


def _gb(size: float) -> str:
    return f"{size / GB:.1f}" if size else "–"
