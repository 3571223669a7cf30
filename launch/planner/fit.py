"""What is short, and which nearest setting would fit? The search is a plain list of candidates, cheapest first.

From the cheapest to the dearest: gradient checkpointing (a third more computing), another share for vLLM (on a CPU
another size of its cache, doubled or halved), a smaller token budget (smaller products, prompts computed more often),
vLLM's weights split over more GPUs, ZeRO stage 3 (weights gathered in every pass), the optimizer in main memory, the
weights too, more GPUs. Stage 2 instead of 1 costs nothing and is tried with each. A candidate is a combination of
these; the first that fits is the answer.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import cast

from grpo.errors import UserError
from launch.config.model_size import Shape
from launch.planner.memory import (
    GB,
    GIB,
    OFFLOADS,
    PHASES,
    ROOM,
    Devices,
    Offload,
    PlanSettings,
    cache_tokens,
    check,
    host_bytes,
    memory_plan,
    peak,
)

Candidate = tuple[PlanSettings, Devices]
SHARES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
GPUS = (1, 2, 4, 8)  # of a node
NODES = (1, 2, 3, 4, 6, 8, 12, 16)
DOUBLINGS = range(-6, 17)  # of a cache on a CPU, and halvings
SMALLEST_BUDGET = 2048  # a GPU computes fewer tokens at once no faster


def shortage(shape: Shape, s: PlanSettings, d: Devices, *, completions: int = 1) -> str | None:
    """What there is too little of, in words, or None where the plan fits.

    vLLM's cache must hold `completions` of full length; one is the least that it starts with.
    """
    lines = memory_plan(shape, s, d)
    need, room = peak(lines, d), ROOM * d.memory
    if need > room:
        phase = max(PHASES, key=lambda phase: sum(getattr(line, phase) for line in lines))
        where = f"{d.ranks} x {d.memory / GB:.0f} GB" if d.kind == "gpu" else f"{d.memory / GB:.1f} GB"
        return (
            f"{where} do not hold this: the {phase} phase needs {need / GB:.1f} GB a rank, of which {room / GB:.1f} GB "
            f"may be planned ({ROOM:.0%})"
        )
    held = cache_tokens(shape, s, d)
    if s.rollout == "vllm" and held < completions * s.context:
        key = (
            f"rollout.gpu_memory_utilization = {s.share:g}"
            if d.kind == "gpu"
            else f"rollout.cpu_kv_cache_gib = {s.kv_cache:g}"
        )
        return f"{key} leaves vLLM a cache of {max(held, 0):,} tokens, and one completion may take {s.context:,}"
    if d.host is not None and host_bytes(lines, d) > ROOM * d.host and d.kind == "gpu":
        needed = host_bytes(lines, d) / GB
        return f"a node's main memory of {d.host / GB:.0f} GB does not hold the {needed:.0f} GB that wait in it"
    return None


def nearest(shape: Shape, s: PlanSettings, d: Devices) -> Candidate | None:
    """The first candidate that is valid and fits, with room in vLLM's cache for a group; None: nothing here does."""
    for settings, devices in candidates(s, d):
        try:
            check(shape, settings, devices)
        except UserError:
            continue
        if shortage(shape, settings, devices, completions=s.group_size) is None:
            return settings, devices
    return None


def candidates(s: PlanSettings, d: Devices) -> Iterator[Candidate]:
    """Every combination, in the order that the module's docstring states."""
    devices = [d] + [replace(d, per_node=p, nodes=n) for p, n in more_gpus(d)]
    offloads = OFFLOADS[OFFLOADS.index(s.offload) :]
    on_gpu = d.kind == "gpu" and s.rollout == "vllm"
    splits = [tp for tp in GPUS if tp >= s.tensor_parallel] if on_gpu else [s.tensor_parallel]
    budgets = [s.token_budget]
    while budgets[-1] // 2 >= max(s.context, SMALLEST_BUDGET):
        budgets.append(budgets[-1] // 2)
    checkpointing = [True] if s.gradient_checkpointing else [False, True]
    for here, offload, gathered, tp, budget, (share, cache), again in product(
        devices, offloads, (False, True), splits, budgets, _caches(s, d), checkpointing
    ):
        for stage in _stages(s, here, cast(Offload, offload), gathered=gathered):
            changed = replace(s, stage=stage, offload=offload, token_budget=budget, share=share, kv_cache=cache)
            yield replace(changed, tensor_parallel=tp, gradient_checkpointing=again), here


def more_gpus(d: Devices) -> list[tuple[int, int]]:
    """(GPUs a node, nodes) with more than there are: whole nodes of 8 once one node is not enough."""
    if d.kind == "cpu":
        return []
    wider = [(gpus, d.nodes) for gpus in GPUS if gpus > d.per_node]
    return wider + [(max(d.per_node, GPUS[-1]), nodes) for nodes in NODES if nodes > d.nodes]


def _caches(s: PlanSettings, d: Devices) -> list[tuple[float, float]]:
    """What vLLM may be given, the recipe's own first and then by distance from it: (share of a GPU, GiB on a CPU)."""
    if s.rollout != "vllm":
        return [(s.share, s.kv_cache)]
    if d.kind == "gpu":
        others = sorted(set(SHARES) - {s.share}, key=lambda share: abs(share - s.share))
        return [(share, s.kv_cache) for share in (s.share, *others)]
    sizes = [s.kv_cache * 2.0**doublings for doublings in sorted(DOUBLINGS, key=abs)]
    return [(s.share, size) for size in sizes if size == s.kv_cache or size * GIB <= d.memory]


def _stages(s: PlanSettings, d: Devices, offload: Offload, *, gathered: bool) -> list[int]:
    """Stages from the recipe's up, 3 where `gathered`; the engine of one process where it can be kept."""
    if s.stage == 0 and d.ranks == 1 and offload == "none":
        return [] if gathered else [0]
    if gathered:
        return [3]
    return [stage for stage in (1, 2) if stage >= (s.stage or 2)]


def changes(before: Candidate, after: Candidate) -> list[str]:
    """What to write into the recipe or the command, one setting each."""
    (s, d), (t, e) = before, after
    said = []
    if e.nodes != d.nodes:
        said.append(f"{e.nodes} nodes of {e.per_node} GPUs")
    elif e.per_node != d.per_node:
        said.append(f"{e.per_node} GPUs")
    if s.stage == 0 and t.stage:
        said.append('policy.backend = "deepspeed"')
    if t.stage not in (0, s.stage) and (s.stage or t.stage != 2):
        said.append(f"policy.zero_stage = {t.stage}")
    if t.offload != s.offload:
        said.append(f'policy.offload = "{t.offload}"')
    if t.gradient_checkpointing != s.gradient_checkpointing:
        said.append("policy.gradient_checkpointing = true")
    if t.token_budget != s.token_budget:
        said.append(f"policy.token_budget = {t.token_budget}")
    if t.share != s.share:
        said.append(f"rollout.gpu_memory_utilization = {t.share:g}")
    if t.kv_cache != s.kv_cache:
        said.append(f"rollout.cpu_kv_cache_gib = {t.kv_cache:g}")
    if t.tensor_parallel != s.tensor_parallel:
        said.append(f"rollout.tensor_parallel = {t.tensor_parallel}")
    return said
