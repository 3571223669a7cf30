"""How long does a step's rollout take with each engine? `python benchmarks/rollouts.py` prints a table.

The embedded model, 4 prompts of 400 tokens x 8 samples of 48 tokens, float32 on a CPU: what one step of the default
recipe asks for. Every completion runs to the limit, so that both engines do the same work. Push is the new weights
going in; the fastest of several rounds is shown, since a machine is never quieter than it is.
"""

import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

import torch
from rich.console import Console as Terminal
from rich.table import Table

from grpo.rollout.base import RolloutEngine
from grpo.rollout.hf import HfRollout
from grpo.rollout.vllm import VllmRollout, start_vllm
from grpo.telemetry.console import Console
from grpo.types import Sampling
from launch.builders.models import EMBEDDED, load_model, locate

PROMPTS, LENGTH, ROUNDS = 4, 400, 3
SAMPLING = Sampling(group_size=8, max_tokens=48)
NEVER = 49_151  # the last id of the vocabulary, which no random prompt brings up: no completion stops


def measure(engine: RolloutEngine, model: torch.nn.Module) -> tuple[float, float, float, float]:
    """Seconds of the first push and generation, which start what is lazy, and of the fastest later ones."""
    pushes, rollouts = [], []
    for step in range(ROUNDS):
        stream = random.Random(step)
        prompts = [tuple(stream.randrange(100, 49_000) for _ in range(LENGTH)) for _ in range(PROMPTS)]
        started = time.perf_counter()
        engine.load(model.named_parameters(), version=step)
        pushed = time.perf_counter()
        written = engine.generate(prompts, SAMPLING, seed=step)
        rollouts.append(time.perf_counter() - pushed)
        pushes.append(pushed - started)
        assert all(len(one.token_ids) == SAMPLING.max_tokens for group in written for one in group)
        engine.release()
    return pushes[0], rollouts[0], min(pushes[1:]), min(rollouts[1:])


def show(rows: dict[str, Sequence[float]]) -> None:
    tokens = PROMPTS * SAMPLING.group_size * SAMPLING.max_tokens
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    load = f"load average {os.getloadavg()[0]:.1f}"
    table = Table(title=f"seconds per rollout of {tokens} tokens; {machine}, {load}", title_justify="left")
    for column in ("engine", "start", "first push", "first rollout", "push", "rollout", "tokens/s"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for name, seconds in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in seconds), f"{tokens / seconds[-1]:.0f}")
    Terminal().print(table)


def main() -> None:
    folder = locate(EMBEDDED, console=Console())
    model = load_model(folder, device="cpu")
    about = {"decode": lambda ids: "", "eos_ids": (NEVER,)}
    started = time.perf_counter()
    hf = HfRollout(load_model(folder, device="cpu"), rows=32, **about)
    rows = {"hf": (time.perf_counter() - started, *measure(hf, model))}
    started = time.perf_counter()
    llm = start_vllm(folder, context=2048, rows=32, dtype="float32", memory=0.4, kv_cache=1.0)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    vllm = VllmRollout(llm, shapes=shapes, **about)
    rows["vllm"] = (time.perf_counter() - started, *measure(vllm, model))
    show(rows)


if __name__ == "__main__":
    main()
