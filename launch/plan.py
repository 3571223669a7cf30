"""Does this recipe fit this machine, and if not, what is the nearest that does? Printed before anything heavy loads.

    python -m launch.plan configs/stage1.toml configs/models/qwen3-8b.toml --gpus 8 --gpu-memory 80 [--nodes 2]
    python -m launch.plan configs/stage1.toml configs/models/qwen3-8b.toml      the machine at hand
    python -m launch.plan --table                                               the plans in docs/running.md

Overrides are those of training: --policy.zero_stage=3. `--host-memory GB` is a node's main memory, for offloading.
The formulas are in launch/planner/memory.py: estimates, of which nothing was measured on a GPU.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table

from grpo.config import load
from grpo.errors import UserError
from launch.builders.rollout import writes_here
from launch.config.model_size import Shape, find_shape
from launch.config.recipe import Recipe
from launch.planner.fit import changes, nearest, shortage
from launch.planner.memory import (
    GB,
    PHASES,
    Devices,
    PlanSettings,
    cache_tokens,
    check,
    host_bytes,
    loading,
    memory_plan,
    peak,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is planned: a model's shape and where it is from, the settings, the devices."""

    label: str
    shape: Shape
    source: str
    settings: PlanSettings
    devices: Devices


def batch_plan(recipe: Recipe, *, questions: int, ranks: int = 1) -> str:
    """What one step and the whole run amount to, in words and numbers, before anything heavy loads."""
    s, steps = recipe.sampling, recipe.steps(questions)
    completions = s.prompts_per_step * s.group_size
    layout = "padded" if recipe.policy.layout == "padded" else "shared"
    epochs = steps * s.prompts_per_step / max(questions, 1)
    return "\n".join(
        [
            f"batch plan   {s.prompts_per_step} prompts x {s.group_size} samples = {completions} completions a step"
            f" on {ranks} rank{'s' * (ranks > 1)}; {recipe.loss.updates_per_step} optimizer step(s) per rollout",
            f"             completions of at most {s.max_tokens} tokens; micro-batches of at most"
            f" {recipe.policy.token_budget} tokens, {layout} prompts",
            f"             {questions} questions, {steps} steps = {epochs:.1f} epochs,"
            f" {steps * completions} completions in all",
        ]
    )


def make_plan(recipe: Recipe, devices: Devices) -> Plan:
    """The plan of a recipe on these devices; UserError where the combination is wrong whatever the memory."""
    shape, source = find_shape(recipe.model.name, recipe.model.shape)
    settings = plan_settings(recipe, devices)
    check(shape, settings, devices)
    return Plan(label=recipe.model.label, shape=shape, source=source, settings=settings, devices=devices)


def plan_settings(recipe: Recipe, devices: Devices) -> PlanSettings:
    """What of the recipe decides about memory, with what "auto" comes to on these devices."""
    p, r = recipe.policy, recipe.rollout
    zero = p.backend == "deepspeed" or (p.backend == "auto" and (devices.ranks > 1 or p.offload != "none"))
    fast = "bfloat16" if devices.fast_bf16 else "float32"
    written_by = "vllm" if devices.kind == "gpu" else writes_here()
    return PlanSettings(
        stage=p.zero_stage if zero else 0,
        offload=p.offload,
        dtype=fast if p.dtype == "auto" else p.dtype,
        gradient_checkpointing=p.gradient_checkpointing,
        shared=p.layout != "padded",
        token_budget=p.token_budget,
        context=recipe.model.context,
        max_tokens=recipe.sampling.max_tokens,
        prompts=recipe.sampling.prompts_per_step,
        group_size=recipe.sampling.group_size,
        reference=recipe.loss.kl_coef > 0,
        rollout=written_by if r.engine == "auto" else r.engine,
        rows=r.max_num_seqs,
        share=r.gpu_memory_utilization,
        kv_cache=r.cpu_kv_cache_gib,
        tensor_parallel=r.tensor_parallel,
    )


def devices_at_hand(*, per_node: int | None = None, nodes: int = 1) -> Devices:
    """This machine's GPUs, or its CPU: `per_node` ranks of it, all GPUs or one process if not given. Imports torch."""
    import torch

    from grpo.policy.torch_backend import fast_bf16

    total, available = _main_memory()
    if torch.cuda.is_available():
        found = torch.cuda.device_count()
        if per_node is not None and per_node > found:
            raise UserError(f"{per_node} ranks on a node with {found} GPUs; at most one rank a GPU")
        memory = min(torch.cuda.get_device_properties(i).total_memory for i in range(found))
        fast = fast_bf16(torch.device("cuda"))
        return Devices(kind="gpu", per_node=per_node or found, nodes=nodes, memory=memory, host=total, fast_bf16=fast)
    ranks = per_node or 1
    fast = fast_bf16(torch.device("cpu"))
    return Devices(kind="cpu", per_node=ranks, nodes=nodes, memory=available / ranks, host=total, fast_bf16=fast)


def _main_memory() -> tuple[float, float]:
    """Bytes of main memory, (all, available now); at most what a container is allowed."""
    numbers = {}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        numbers[name] = 1024 * int(rest.split()[0])
    most = numbers["MemTotal"]
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, version 2 and 1
        file = Path("/sys/fs/cgroup") / limit
        if file.is_file() and (allowed := file.read_text(encoding="ascii").strip()) != "max":
            most = min(most, int(allowed))
    return most, min(most, numbers["MemAvailable"])


def announce(plan: Plan) -> None:
    """Print the plan. UserError where it does not fit, after the table that shows why."""
    print(heading(plan))
    Console(width=None if sys.stdout.isatty() else 120).print(show(plan))
    print(verdict(plan), flush=True)


def show(plan: Plan) -> Table:
    """A rank's memory in GB, a line per part, a column per phase, and the totals."""
    s, d = plan.settings, plan.devices
    lines = memory_plan(plan.shape, s, d)
    table = Table(box=box.SIMPLE)
    for name in ("GB a rank", *PHASES, "host", "how"):
        table.add_column(name, justify="left" if name in ("GB a rank", "how") else "right")
    for line in lines:
        sizes = [_gb(getattr(line, phase)) for phase in PHASES]
        table.add_row(line.name, *sizes, _gb(line.host), line.how)
    table.add_section()
    totals = [_gb(sum(getattr(line, phase) for line in lines)) for phase in PHASES]
    how = f"a node's ranks: {host_bytes(lines, d) / GB:.1f} of host" if host_bytes(lines, d) else ""
    table.add_row("total", *totals, _gb(sum(line.host for line in lines)), how)
    return table


def heading(plan: Plan) -> str:
    """Two lines: what is planned on what, and the numbers that the formulas are about."""
    s, d = plan.settings, plan.devices
    engine = f"ZeRO-{s.stage}" if s.stage else "one process"
    engine += {"none": "", "optimizer": ", optimizer offloaded", "all": ", all offloaded"}[s.offload]
    size = f"P = {plan.shape.parameters:,}, N = {d.ranks}, T = {s.tokens:,}"
    written_by = f"rollouts by {s.rollout}" + f" over {s.tensor_parallel} GPUs each" * (s.tensor_parallel > 1)
    return (
        f"memory plan  {plan.label} on {machine(d)}: {engine}, {s.dtype}, {written_by}\n"
        f"             {size}; shape from {plan.source}"
    )


def machine(d: Devices) -> str:
    """In words: `2 nodes x 8 GPUs of 80 GB`."""
    nodes = f"{d.nodes} nodes x " * (d.nodes > 1)
    if d.kind == "gpu":
        return f"{nodes}{d.per_node} GPU{'s' * (d.per_node > 1)} of {d.memory / GB:.0f} GB"
    return f"{nodes}{d.per_node} process{'es' * (d.per_node > 1)} on a CPU, {d.memory / GB:.1f} GB each"


def verdict(plan: Plan) -> str:
    """One line on a plan that fits, and a warning where the model would not come so far. UserError, with the nearest
    setting that fits, for one that does not."""
    s, d = plan.settings, plan.devices
    short = shortage(plan.shape, s, d)
    if short is not None:
        raise UserError(f"{short}; {advice(plan)}")
    need = peak(memory_plan(plan.shape, s, d), d) / GB
    said = f"             fits: {need:.1f} of {d.memory / GB:.1f} GB, an estimate"
    if s.rollout == "vllm":
        held = cache_tokens(plan.shape, s, d)
        asked = s.prompts * s.group_size * s.tensor_parallel // d.ranks
        most = min(held // s.context, s.rows, asked)
        said += f"; vLLM's cache: {held:,} tokens, {most} of {asked} completions at full length at once"
    return said + "".join(f"\nwarning: while it loads, {what}" for what in short_while_loading(plan))


def short_while_loading(plan: Plan) -> list[str]:
    """What there is too little of before training begins, in words; that is no part of the four phases."""
    s, d = plan.settings, plan.devices
    of_rank, of_node = loading(plan.shape, s, d)
    what = "model and reference" if s.reference else "the model"
    said = []
    if of_rank > d.memory:
        said.append(f"a rank holds {what} whole, {of_rank / GB:.1f} GB of its {d.memory / GB:.0f}")
    if d.host is not None and of_node > d.host:
        said.append(
            f"each rank of a node converts the model to float32 in main memory, {of_node / GB:.0f} GB of its "
            f'{d.host / GB:.0f}; not with policy.zero_stage = 3, or policy.backend = "deepspeed" in bfloat16'
        )
    return said


def advice(plan: Plan) -> str:
    """The nearest setting that fits, for the end of a refusal."""
    asked = (plan.settings, plan.devices)
    found = nearest(plan.shape, *asked)
    if found is None:
        more = "GPUs with more memory" if plan.devices.kind == "gpu" else "a machine with more memory"
        return f"nothing near it fits: a smaller model, or {more}"
    need = peak(memory_plan(plan.shape, *found), found[1]) / GB
    return f"nearest that fits: {', '.join(changes(asked, found))} ({need:.1f} GB)"


def _gb(size: float) -> str:
    return f"{size / GB:.1f}" if size else "–"


class _Parser(argparse.ArgumentParser):
    """Errors in one line, like every other wrong input."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m launch.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="of a node")
    parser.add_argument("--gpu-memory", type=float, metavar="GB", help="of each")
    parser.add_argument("--nodes", type=int, metavar="N", help="1 if not given")
    parser.add_argument(
        "--host-memory", type=float, metavar="GB", help="main memory of a node, if it is to be compared"
    )
    parser.add_argument("--table", action="store_true", help="print the plans of docs/running.md as Markdown")
    return parser


def devices_asked(options: Any) -> Devices:
    """What the flags say, or the machine at hand without them."""
    given = {name: value for name, value in vars(options).items() if name != "table" and value is not None}
    for name, value in given.items():
        if not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value:g}: expected a number above 0")
    if not given:
        return devices_at_hand()
    if "gpus" not in given or "gpu_memory" not in given:
        missing = "--gpus N" if "gpus" not in given else "--gpu-memory GB"
        raise UserError(f"a machine one does not have is --gpus N --gpu-memory GB together; {missing} is missing")
    host = options.host_memory * GB if options.host_memory else None
    return Devices(
        kind="gpu", per_node=options.gpus, nodes=options.nodes or 1, memory=options.gpu_memory * GB, host=host
    )


def main(argv: Sequence[str]) -> int:
    try:
        options, rest = _parser().parse_known_args(argv)
        if options.table:
            if len(argv) > 1:
                raise UserError("--table is of fixed recipes and machines; valid: --table alone")
            from launch.planner.table import plans

            print(plans())
            return 0
        if not any(not argument.startswith("--") for argument in rest):
            raise UserError("no recipe: python -m launch.plan configs/stage1.toml configs/models/qwen3-8b.toml ...")
        announce(make_plan(load(Recipe, rest), devices_asked(options)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
