"""Whether a plan fits, and which settings would fit instead: a ladder of changes, from the cheapest to the dearest."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from grpo.errors import UserError
from grpo.settings import RolloutConfig
from launch.config.model_size import ModelSize, UnknownModelSize, find_size
from launch.planner.devices import devices_at_hand
from launch.planner.memory import (
    GB,
    GIB,
    PHASES,
    ROOM,
    WORKSPACE,
    Devices,
    PlanSettings,
    cache_tokens,
    check,
    host_bytes,
    memory_plan,
    peak,
    phase_bytes,
    splits,
)

KEYS = {  # where a setting stands in a recipe
    "zero_stage": "policy.zero_stage",
    "offload": "policy.offload",
    "gradient_checkpointing": "policy.gradient_checkpointing",
    "token_budget": "policy.token_budget",
    "gpu_memory_utilization": "rollout.gpu_memory_utilization",
    "cpu_kv_cache_gib": "rollout.cpu_kv_cache_gib",
    "tensor_parallel": "rollout.tensor_parallel",
}


@dataclass(frozen=True, slots=True)
class Shortage:
    """What there is too little of, and whether parts that are counted, without any estimate, are enough to say so."""

    message: str
    counted: bool


def shortage(size: ModelSize, s: PlanSettings, d: Devices, *, completions: int = 1) -> Shortage | None:
    """The first thing that there is too little of, or None where the plan fits.

    vLLM's cache must hold `completions` of full length; it starts with one at least.
    """
    parts = memory_plan(size, s, d)
    need = peak(parts, d)
    if need > ROOM * d.memory:
        phase = max(PHASES, key=lambda phase: phase_bytes(parts, phase))
        where = f"{d.ranks} x {d.memory / GB:.0f} GB" if d.kind == "gpu" else f"{d.memory / GB:.1f} GB"
        counted = peak((part for part in parts if part.counted), d)
        return Shortage(
            f"{where} do not hold this: the {phase} phase needs {need / GB:.1f} GB a rank, {counted / GB:.1f} of it "
            f"counted and the rest estimated, and {ROOM * d.memory / GB:.1f} GB may be planned ({ROOM:.0%})",
            counted > d.capacity,
        )
    held = cache_tokens(size, s, d)
    if s.rollout == "vllm" and held < completions * s.context:
        key = "gpu_memory_utilization" if d.kind == "gpu" else "cpu_kv_cache_gib"
        weights = s.width * size.parameters / s.tensor_parallel
        return Shortage(
            f"{KEYS[key]} = {getattr(s, key):g} leaves vLLM a cache of {max(held, 0):,} tokens, and one completion may "
            f"take {s.context:,}",
            d.kind == "cpu" or weights > s.gpu_memory_utilization * d.memory,
        )
    if d.kind == "gpu" and d.host is not None and (waiting := host_bytes(parts, d)) > ROOM * d.host:
        message = (
            f"a node's main memory of {d.host / GB:.0f} GB does not hold the {waiting / GB:.0f} GB offloaded to it"
        )
        return Shortage(message, waiting > d.host)
    return None


def suggestion(size: ModelSize, s: PlanSettings, d: Devices) -> PlanSettings | None:
    """The settings with the fewest rungs of the ladder that fit, with room in vLLM's cache for a group; None: none."""
    taken: list[dict[str, Any]] = []
    for rung in [{}, *_ladder(size, s, d)]:
        taken.append(rung)
        if _fits(size, s, d, taken):
            break
    else:
        return None
    for rung in reversed(taken[:]):  # rungs that the last one has made unnecessary, the dearest first
        fewer = [other for other in taken if other is not rung]
        taken = fewer if _fits(size, s, d, fewer) else taken
    return _changed(s, taken)


def changes(before: PlanSettings, after: PlanSettings) -> str:
    """What to write into the recipe, as TOML."""
    begins_zero = before.zero_stage == 0 and after.zero_stage > 0
    if begins_zero:
        before = replace(before, zero_stage=2)  # the default of a recipe
    changed = [name for name in KEYS if getattr(before, name) != getattr(after, name)]
    values = [getattr(after, name) for name in changed]
    shown = [f'"{v}"' if isinstance(v, str) else str(v).lower() if isinstance(v, bool) else f"{v:g}" for v in values]
    lines = [f"{KEYS[name]} = {value}" for name, value in zip(changed, shown, strict=True)]
    return ", ".join(['policy.backend = "deepspeed"'] * begins_zero + lines)


def with_evaluation_split(
    rollout: RolloutConfig, folder: str, config: Mapping[str, Any], *, width: int, context: int
) -> RolloutConfig:
    """The section with the fewest of this machine's GPUs that hold the model in `folder`, where vLLM is alone on them.

    They hold the weights, of `width` bytes a number, and one completion's cache; UserError where all GPUs do not. The
    section stays as it is where there is no GPU, or where the size is unknown.
    """
    devices = devices_at_hand()
    if devices.kind == "cpu":
        return rollout
    try:
        size, _ = find_size(folder, config)
    except UnknownModelSize:
        return rollout
    memory = rollout.gpu_memory_utilization * devices.memory
    need = width * size.parameters + context * size.cache_bytes(width)
    valid = splits(size, devices.per_node)
    for gpus in valid:
        if need / gpus + WORKSPACE <= memory:
            return rollout.replace(tensor_parallel=gpus)
    raise UserError(
        f"{max(valid)} of {devices.per_node} GPUs with {memory / GB:.0f} GB for vLLM do not hold the model: its "
        f"weights take {width * size.parameters / GB:.0f} GB; valid: a smaller model, or more or larger GPUs"
    )


def _ladder(size: ModelSize, s: PlanSettings, d: Devices) -> Iterator[dict[str, Any]]:
    """Changes of settings, each on top of those before it."""
    yield {"gradient_checkpointing": True}  # a third more arithmetic
    group = s.group_size * s.context * size.cache_bytes(s.width)
    if s.rollout == "vllm" and d.kind == "gpu":
        needs = {n: (s.width * size.parameters + group) / n + WORKSPACE for n in splits(size, d.per_node)}
        small = [
            n for n, need in needs.items() if n >= s.tensor_parallel and need < d.memory / 2
        ]  # half is the trainer's
        n = min(small, default=s.tensor_parallel)
        yield {"tensor_parallel": n, "gpu_memory_utilization": min(0.9, math.ceil(20 * needs[n] / d.memory) / 20)}
    elif s.rollout == "vllm":
        yield {"cpu_kv_cache_gib": math.ceil(100 * group / GIB) / 100}
    yield {"token_budget": min(s.token_budget, s.context)}  # smaller products, prompts computed more often
    yield {"zero_stage": 2}
    yield {"zero_stage": 3}  # weights are gathered in every pass
    yield {"offload": "optimizer"}
    yield {"offload": "all"}


def _changed(s: PlanSettings, rungs: list[dict[str, Any]]) -> PlanSettings:
    for rung in rungs:
        stage = max(s.zero_stage, rung.get("zero_stage", 0))
        s = replace(s, **{**rung, "zero_stage": stage})
    return s


def _fits(size: ModelSize, s: PlanSettings, d: Devices, rungs: list[dict[str, Any]]) -> bool:
    changed = _changed(s, rungs)
    try:
        check(size, changed, d)
    except UserError:
        return False
    return shortage(size, changed, d, completions=s.group_size) is None
