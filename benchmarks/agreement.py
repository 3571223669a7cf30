"""How far apart are sampler and trainer? `python -m benchmarks.agreement` prints nats per token, a row a pair.

vLLM and the hf engine sample what the embedded model says to questions of the fictional world, with
weights that were pushed into them; the trainer computes the log-probabilities of the same tokens, in float32 and under
bfloat16 autocast. Rounding alone is what is left. One vLLM fits into a process, so a process runs one number format:

    python -m benchmarks.agreement --dtype float32
    python -m benchmarks.agreement --dtype bfloat16

`launch/builders/policy.py` has the limits above which a run stops; these figures are what they were chosen by.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

import torch
from rich.console import Console as Terminal
from rich.table import Table

from benchmarks.update import positive
from curriculum.datasets.world import make_world
from grpo.batch import Batch, collate
from grpo.config import load
from grpo.model.forward import completion_logprobs
from grpo.rollout.base import RolloutEngine, sample_groups
from grpo.rollout.hf import HfRollout
from grpo.telemetry.console import Console
from grpo.types import Sampling
from launch.builders.models import load_model, locate
from launch.builders.prompts import make_prompt_codec
from launch.config.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]


def apart(model: Any, batch: Batch, *, bf16: bool, device: str) -> tuple[float, float]:
    """(mean, most) of |trainer - sampler| over the tokens of a batch, in nats."""
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        logp_BC, _ = completion_logprobs(model, batch, layout="shared")
    difference = (logp_BC.float().cpu() - batch.sampler_logp_BC)[batch.learn_BC].abs()
    return float(difference.mean()), float(difference.max())


def written(rollout: RolloutEngine, model: Any, asked: argparse.Namespace, *, codec: Any) -> Batch:
    """What an engine writes with the weights of `model`, as a batch."""
    rollout.load(model.named_parameters(), version=1)
    examples = make_world(200, seed=3, unanswerable=0.0, passages=3, styles={"prose": 1.0})[: asked.prompts]
    sampling = Sampling(group_size=asked.group, max_tokens=asked.tokens)
    groups = sample_groups(rollout, examples, codec.render, sampling, seed=0, version=1)
    rollout.release()
    return collate(groups, torch.ones(len(groups), asked.group))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of vLLM; hf is float32")
    parser.add_argument("--prompts", type=positive, default=3)
    parser.add_argument("--group", type=positive, default=8)
    parser.add_argument("--tokens", type=positive, default=24, help="of a completion at most")
    asked = parser.parse_args(argv)
    from grpo.rollout.vllm import VllmRollout, start_vllm  # slow to import; the help needs none of it

    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = load(Recipe, [str(ROOT / "configs" / name) for name in ("stage1.toml", "models/smollm2-135m.toml")])
    console = Console()
    folder = locate(recipe.model.name, console=console)
    codec = make_prompt_codec(recipe.model, folder, console, max_tokens=recipe.sampling.max_tokens)
    model = load_model(folder, device=device)
    llm = start_vllm(folder, context=1024, rows=24, dtype=asked.dtype, memory=0.4, kv_cache=0.25)
    about: dict[str, Any] = {"decode": codec.decode, "eos_ids": (model.config.eos_token_id,)}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    engines: dict[str, RolloutEngine] = {
        "hf, float32": HfRollout(load_model(folder, device=device), rows=24, **about),
        f"vLLM, {asked.dtype}": VllmRollout(llm, shapes=shapes, **about),
    }
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.02)  # so that an engine which kept its own weights would be seen here
    table = Table("sampler", "trainer", "tokens", "mean, nats", "most, nats", title=f"|trainer - sampler| on {device}")
    for name, engine in engines.items():
        batch = written(engine, model, asked, codec=codec)
        measure = partial(apart, model, batch, device=device)
        for trainer, bf16 in (("float32", False), ("bfloat16 autocast", True)):
            mean, most = measure(bf16=bf16)
            table.add_row(name, trainer, str(int(batch.learn_BC.sum())), f"{mean:.1e}", f"{most:.1e}")
    Terminal().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
