"""Is the memory plan right? The peak of one real rollout and update on this CPU, beside the plan's sum, phase by phase.

    python benchmarks/peak_memory.py [GROUPS ...]

The embedded model, one process, the hf rollout engine, float32; micro-batches of 1, 2 and 4 whole groups of random ids.
Each size is a process of its own, since the allocator keeps most of what is freed. For the same reason only the
backward phase compares: step and rollout are measured with what it left.
"""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from grpo.config import load
from launch.config.model_size import find_size
from launch.config.recipe import Recipe
from launch.planner.memory import GB, Devices, memory_plan
from launch.planner.report import plan_settings

PROMPT, ANSWER, GROUP = 384, 64, 8
TOKENS = PROMPT + GROUP * (ANSWER - 1)  # of a group: a completion's last token is predicted, not read
RECIPES = ["configs/stage1.toml", "configs/models/smollm2-135m.toml"]


class Peak:
    """The largest resident set of this process since `begin`, sampled every 5 ms."""

    def __init__(self) -> None:
        self._largest = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        self._largest = resident()

    def end(self) -> float:
        return self._largest / GB

    def _watch(self) -> None:
        while True:
            self._largest = max(self._largest, resident())
            time.sleep(0.005)


def resident() -> float:
    """Bytes of main memory that this process holds now."""
    return 4096.0 * int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])


def measure(groups: int) -> None:
    """Print measured and planned GB of each phase, with micro-batches of so many groups."""
    import torch

    from grpo.batch import Batch
    from grpo.policy.optimizer import AdamWConfig
    from grpo.policy.torch_backend import torch_policy
    from grpo.rollout.hf import HfRollout
    from grpo.telemetry.console import Console
    from grpo.types import Sampling
    from launch.builders.models import load_model, locate

    budget = groups * TOKENS
    recipe = load(Recipe, [*RECIPES, f"--policy.token_budget={budget}", "--policy.dtype=float32"])
    devices = Devices(kind="cpu", per_node=1, nodes=1, memory=64 * GB, fast_bf16=False)
    settings = replace(
        plan_settings(PROMPT + ANSWER, recipe.sampling, recipe.loss, recipe.policy, recipe.rollout, devices),
        rollout="hf",
        max_tokens=ANSWER,
    )
    settings = replace(settings, max_num_seqs=GROUP, prompts=2 * groups, group_size=GROUP)
    lines = memory_plan(find_size(recipe.model.name, recipe.model.config)[0], settings, devices)

    peak, measured = Peak(), {}
    peak.begin()
    folder = locate(recipe.model.name, console=Console())
    measured["runtime"] = peak.end()
    policy = torch_policy(
        load_model(folder, device="cpu"), optim=AdamWConfig(), total_updates=4, token_budget=budget, dtype="float32"
    )
    rollout = HfRollout(load_model(folder, device="cpu"), decode=lambda ids: "", eos_ids=(2,), rows=GROUP)
    prompts = tuple(tuple(torch.randint(100, 40_000, (PROMPT,)).tolist()) for _ in range(2 * groups))
    ids_BC = torch.randint(100, 40_000, (2 * groups * GROUP, ANSWER))
    batch = Batch(
        prompts=prompts,
        group_B=torch.arange(2 * groups).repeat_interleave(GROUP),
        ids_BC=ids_BC,
        learn_BC=torch.ones_like(ids_BC, dtype=torch.bool),
        advantage_B=torch.randn(len(ids_BC)),
        sampler_logp_BC=torch.zeros(ids_BC.shape),
    )
    stepped: list[float] = []
    step = policy._optimizer.step

    def watched_step() -> None:  # the backward phase ends where the optimizer's step begins
        measured["backward"] = peak.end()
        peak.begin()
        step()
        stepped.append(peak.end())

    policy._optimizer.step = watched_step  # type: ignore[method-assign]
    for _ in range(2):  # Adam's moments are there from the second update on
        peak.begin()
        policy.update(batch, lambda logp_BC, entropy_BC, part: (-logp_BC.mean(), {}))
    measured["step"] = stepped[-1]
    peak.begin()
    rollout.load(policy.export_weights(), version=1)
    rollout.generate(prompts[:1], Sampling(group_size=GROUP, max_tokens=ANSWER), seed=0)
    measured["rollout"] = peak.end()
    print(f"{groups} x {TOKENS} tokens; python and torch alone {measured.pop('runtime'):.2f} GB")
    for phase, found in measured.items():
        planned = sum(getattr(line, phase) for line in lines) / GB
        print(f"  {phase:<9} measured {found:5.2f} GB, planned {planned:5.2f} GB", flush=True)


def main(argv: list[str]) -> int:
    if argv[:1] == ["--one"]:
        measure(int(argv[1]))
        return 0
    for groups in argv or ["1", "2", "4"]:
        subprocess.run([sys.executable, __file__, "--one", groups], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
