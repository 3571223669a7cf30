"""Does everything hold on a GPU too, and how fast is it? `make test-gpu`, or `python benchmarks/gpu.py [--device cpu]`.

With --bench (`make test-gpu ARGS=--bench`) the table of benchmarks/bench.py follows, with TRL where .venv-trl is there.

The contracts of the engines, with a tiny random model, against float32 on the CPU; then 20 GRPO steps of the embedded
model, its seconds per phase and its mismatch of sampler and trainer. Without an NVIDIA GPU it says so and exits 0, with
--device cpu it runs the contracts there, which is how it is tested. Exit status 1 if a number is above its limit.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout, so that this file runs uninstalled

import torch
from rich.console import Console
from rich.table import Table

from grpo.batch import collate
from grpo.distributed.communicator import Communicator
from grpo.losses import make_loss, with_token_weights
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.rollout.hf import HfRollout
from grpo.settings import LossConfig, PolicyConfig
from grpo.types import Group, Sampling
from tests.helpers.installed import tiny_llm
from tests.helpers.toy import EOS, ByteTokenizer, deepspeed_policy, example, random_batch, tiny_model

PROMPTS = [(5, 6, 7, 8, 9), (10, 11), (12, 13, 14)]
CLOSE = 2e-4  # float32 sums in another order; TF32 is off
STEPS = 20

Row = tuple[str, float, float]
"""(what, measured, limit)"""


def policy(kind: str, device: str, dtype: Any = "float32") -> Any:
    settings = {
        "optim": AdamWConfig(lr=2e-3, schedule="constant", warmup_ratio=0.0),
        "total_updates": 3,
        "token_budget": 20,
        "dtype": dtype,
    }
    if kind == "single":
        return torch_policy(tiny_model().to(device), **settings)
    model = tiny_model() if kind.endswith("3") else tiny_model().to(device)
    return deepspeed_policy(model, zero=PolicyConfig(zero_stage=int(kind[-1])), comm=Communicator(), **settings)  # type: ignore[arg-type]


def trained(engine: Any) -> torch.Tensor:
    """Its weights, on the CPU, after three steps."""
    for seed in range(3):
        batch = random_batch(prompts=(5, 9, 3), sizes=(3, 2, 2), lengths=(4, 1, 6, 2, 5, 3, 2), seed=seed)
        weighed = with_token_weights(batch, LossConfig(aggregation="sequence"), total=lambda _: (23, 7))
        engine.update(weighed, make_loss(LossConfig(importance_cap=0.0)))
    return torch.cat([tensor.detach().float().cpu().flatten() for _, tensor in engine.export_weights()])


def installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


def policies(device: str) -> Iterator[Row]:
    """Weights after three steps, and log-probabilities in bfloat16, against one process on the CPU in float32."""
    expected, batch = trained(policy("single", "cpu")), random_batch()
    exact = policy("single", "cpu").logprobs(batch)
    for kind in ("single", *(f"zero-{stage}" for stage in (1, 2, 3) if installed("deepspeed"))):
        yield f"{kind}: weights after 3 steps", float((trained(policy(kind, device)) - expected).abs().max()), CLOSE
        low = policy(kind, device, "bfloat16").logprobs(batch)
        yield f"{kind}: nats, bfloat16", float((low - exact).abs().max()), 0.2


def rollouts(device: str) -> Iterator[Row]:
    """Log-probabilities of what was sampled after a push of new weights, against the trainer's."""
    about = {"decode": ByteTokenizer().decode, "eos_ids": (EOS,)}
    makers: dict[str, Callable[[], Any]] = {
        "hf": lambda: HfRollout(tiny_model(1, head_dim=32).to(device), rows=64, **about)
    }
    if installed("vllm"):
        from grpo.rollout.vllm import VllmRollout

        shapes = {name: tuple(weight.shape) for name, weight in tiny_model(head_dim=32).named_parameters()}
        makers["vllm"] = lambda: VllmRollout(tiny_llm(), shapes=shapes, **about)
    for name, make in makers.items():
        engine, model = make(), tiny_model(head_dim=32).to(device)
        for version in (1, 2):
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1.1)
            engine.load(model.named_parameters(), version=version)
            written = engine.generate(PROMPTS, Sampling(group_size=8, max_tokens=12), seed=0)
            engine.release()
        groups = [
            Group(example=example(i), prompt_ids=PROMPTS[i], completions=tuple(group))
            for i, group in enumerate(written)
        ]
        batch = collate(groups, torch.ones(len(groups) * 8))
        logp_BC = torch_policy(
            model, optim=AdamWConfig(), total_updates=1, token_budget=1000, dtype="float32", layout="padded"
        ).logprobs(batch)
        far = (logp_BC - batch.sampler_logp_BC)[batch.learn_BC].abs()
        yield f"{name}: nats from the trainer, mean", float(far.mean()), 1e-4


def run(folder: str) -> Iterator[Row]:
    """The medians of 20 steps of the embedded model by the recipe."""
    recipes = ["configs/stage1.toml", "configs/models/smollm2-135m.toml"]
    changes = [f"--run.steps={STEPS}", "--rollout.engine=auto", "--held_out.questions=0", f"--run.folder={folder}"]
    subprocess.run([sys.executable, "launch/train.py", *recipes, *changes, "--run.name=gpu"], cwd=ROOT, check=True)
    lines = (Path(folder) / "gpu" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    limits = {"policy/mismatch": 0.05}
    for name in ("time/rollout", "time/update", "time/sync", "policy/mismatch"):
        values = sorted(step[name] for step in steps if name in step)
        yield f"{STEPS} steps, median {name}", values[len(values) // 2], limits.get(name, float("inf"))


def bench(device: str) -> None:
    """The table of benchmarks/bench.py with whoever can take part; its own shapes for the device."""
    names = ["ours-hf", "ours-padded", *(["ours-vllm"] if installed("vllm") else [])]
    peer = (ROOT / ".venv-trl").is_dir()
    names += ["trl-4", "trl-8", "trl-16"] if peer else []
    print(f"bench: {', '.join(names)}" + ("" if peer else "; no .venv-trl (`make bench` makes it), so without TRL"))
    command = [sys.executable, "-m", "benchmarks.bench", "--device", device, "--contenders", ",".join(names)]
    subprocess.run(command, cwd=ROOT, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--no-run", action="store_true", help="the contracts alone")
    parser.add_argument("--bench", action="store_true", help="our step against TRL's as well")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("test-gpu: no NVIDIA GPU here, so nothing was tested")
        return 0
    if missing := [package for package in ("deepspeed", "vllm") if not installed(package)]:
        print(f"test-gpu: not tried, since {' and '.join(missing)} is not installed: its engines")
    name = torch.cuda.get_device_name() if asked.device == "cuda" else "the CPU"
    rows = [*policies(asked.device), *rollouts(asked.device)]
    if asked.device == "cuda" and not asked.no_run:
        with tempfile.TemporaryDirectory() as folder:
            rows += run(folder)
    shown = Table(title=f"on {name}, torch {torch.__version__}", title_justify="left")
    for column in ("what", "measured", "at most", ""):
        shown.add_column(column, justify="left" if column in ("what", "") else "right")
    for what, measured, limit in rows:
        shown.add_row(what, f"{measured:.2g}", f"{limit:.2g}", "" if measured <= limit else "FAILED")
    Console().print(shown)
    if asked.bench:
        bench(asked.device)
    return int(not all(measured <= limit for _, measured, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
