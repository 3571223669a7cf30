"""Which models fit which machines? The Markdown table of docs/running.md, made by `python -m launch.plan --table`."""

from pathlib import Path

from grpo.config import load
from launch.config.recipe import Recipe
from launch.plan import Plan, make_plan
from launch.planner.fit import changes, nearest, shortage
from launch.planner.memory import GB, PHASES, Devices, PlanSettings, cache_tokens, host_bytes, memory_plan

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 80 * GB
PLANNED = (  # model's recipe, GPUs of a node, nodes
    *((model, gpus, 1) for model in ("qwen3-4b", "qwen3-8b", "llama3.1-8b", "r1-llama3.1-8b") for gpus in (1, 8)),
    *(("qwen3-32b", 8, nodes) for nodes in (1, 2, 3)),
    *(("llama3.1-70b", 8, nodes) for nodes in (2, 3, 6)),
)
HEADER = (
    "| recipe | GPUs | settings | push | rollout | backward | step | main memory of a node | completions in cache |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def plans() -> str:
    """A row for each of PLANNED, in GB of one 80 GB GPU: the recipe's own settings, or the nearest that fit."""
    return "\n".join([*HEADER, *(row(*planned) for planned in PLANNED)])


def row(model: str, gpus: int, nodes: int) -> str:
    recipe = load(Recipe, [str(ROOT / "configs/stage1.toml"), str(ROOT / f"configs/models/{model}.toml")])
    plan = make_plan(recipe, Devices(kind="gpu", per_node=gpus, nodes=nodes, memory=MEMORY))
    asked = (plan.settings, plan.devices)
    said, found = "the recipe's", asked
    if shortage(plan.shape, *asked) is not None:
        near = nearest(plan.shape, *asked)
        if near is None or near[1] != plan.devices:
            return f"| {model} | {_machine(gpus, nodes)} | does not fit |" + " – |" * 6
        said, found = ", ".join(f"`{change}`" for change in changes(asked, near)), near
    return f"| {model} | {_machine(gpus, nodes)} | {said} | {_numbers(plan, *found)} |"


def _numbers(plan: Plan, s: PlanSettings, d: Devices) -> str:
    lines = memory_plan(plan.shape, s, d)
    phases = [f"{sum(getattr(line, phase) for line in lines) / GB:.1f}" for phase in PHASES]
    held = f"{cache_tokens(plan.shape, s, d) // s.context} over {s.tensor_parallel} GPUs"
    return " | ".join([*phases, f"{host_bytes(lines, d) / GB:.0f}", held.removesuffix(" over 1 GPUs")])


def _machine(gpus: int, nodes: int) -> str:
    return f"{nodes} x {gpus}" if nodes > 1 else str(gpus)
