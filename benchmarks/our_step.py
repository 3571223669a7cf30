"""Our contender: one whole step of GRPO by the engines of a run, told when by `benchmarks/channel.py`.

    python -m benchmarks.our_step JOB.json

The order is that of `grpo/loop.py`: new weights to the rollout engine, a group per prompt, update. Completions run to
the limit, since the only stop token lies outside the vocabulary; advantages are made up, and none of them is 0.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

import torch

from benchmarks.channel import Channel
from benchmarks.machine import PeakMemory, machine, peak_flops
from benchmarks.update import rates, weighed
from benchmarks.workload import Workload, alternating, parse_workload
from grpo.batch import collate
from grpo.data.example import Example
from grpo.losses import make_loss
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.rollout.base import RolloutEngine
from grpo.rollout.hf import HfRollout
from grpo.settings import LossConfig
from grpo.telemetry.throughput import ForwardTokenCounter, synchronize
from grpo.types import Completion, Group, Sampling, TokenIds
from launch.builders.models import load_model
from launch.config.model_size import count, read_config

LOSS = make_loss(LossConfig())
ASKED = Example(id="bench", question="", passages=(), answers=(), found=(), style="closed", source="benchmark")


def make_rollout(job: dict[str, Any], workload: Workload, model: Any, device: torch.device) -> RolloutEngine:
    """The engine that the job names, made so that nothing stops: the one by a stop token that is no token of the model,
    vLLM, which refuses such a token, by none."""
    rows = workload.prompts * workload.group
    about: dict[str, Any] = {"decode": lambda ids: "", "eos_ids": (model.config.vocab_size,)}
    if job["engine"] == "hf":
        return HfRollout(load_model(job["folder"], device=str(device)), rows=rows, **about)
    from grpo.rollout.vllm import VllmRollout, start_vllm

    llm = start_vllm(
        job["folder"],
        context=workload.prompt_tokens + workload.completion_tokens,
        rows=rows,
        dtype=job["dtype"],
        memory=job["gpu_share"],
        kv_cache=job["kv_cache"],
    )
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    rollout = VllmRollout(llm, shapes=shapes, **about)
    rollout._eos_ids = []
    return rollout


class OurStep:
    """The engines of a run, and one step of them."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        self.device = torch.device(job["device"])
        self._dtype = torch.bfloat16 if job["dtype"] == "bfloat16" else torch.float32
        self._size = count(read_config(Path(job["folder"]) / "config.json"), job["folder"])
        self._workload = parse_workload(job["workload"])
        model = load_model(job["folder"], device=str(self.device))
        self.policy = torch_policy(
            model,
            optim=AdamWConfig(lr=1e-6, schedule="constant", warmup_ratio=0.0),
            total_updates=len(job["prompts"]),
            token_budget=job["token_budget"],
            layout=job["layout"],
            dtype=job["dtype"],
            gradient_checkpointing=job["gradient_checkpointing"],
        )
        self._rollout = make_rollout(job, self._workload, model, self.device)
        self._positions, self._memory = ForwardTokenCounter(), PeakMemory(self.device)
        self._positions.attach(model)

    def peak(self) -> float:
        return peak_flops(self.device, self._dtype)

    def __call__(self, prompts: list[TokenIds], number: int) -> dict[str, Any]:
        """Seconds of both phases, the peak of the process while they ran, and how well the update used the machine."""
        self._memory.begin()
        started = time.perf_counter()
        self._rollout.load(self.policy.export_weights(), version=number)
        sampling = Sampling(group_size=self._workload.group, max_tokens=self._workload.completion_tokens)
        written = self._rollout.generate(prompts, sampling, seed=number)
        self._rollout.release()
        synchronize(self.device)
        wrote = time.perf_counter()
        stats = self.policy.update(self._batch(prompts, written), LOSS)
        synchronize(self.device)
        ended = time.perf_counter()
        assert not stats["skipped"], "an update without a finite gradient measures nothing"
        positions, _ = self._positions.take()
        peak_bytes = self._memory.take()  # before the products that measure the machine
        return {
            "rollout": wrote - started,
            "update": ended - wrote,
            "step": ended - started,
            "peak_bytes": peak_bytes,
            "tokens_computed": positions,
            "mismatch": stats["mismatch"],
            **rates(self._size, self._workload.work, ended - wrote, self.peak()),
        }

    def _batch(self, prompts: list[TokenIds], written: list[list[Completion]]) -> Any:
        for completion in (completion for group in written for completion in group):
            assert len(completion.token_ids) == self._workload.completion_tokens, "a completion stopped early"
        groups = [
            Group(example=ASKED, prompt_ids=prompt, completions=tuple(group))
            for prompt, group in zip(prompts, written, strict=True)
        ]
        return weighed(collate(groups, alternating(len(prompts) * self._workload.group)))


def main(path: str) -> int:
    channel = Channel()
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    step = OurStep(job)
    channel.say(threads=torch.get_num_threads(), peak_flops=step.peak(), machine=machine())
    for number in channel.steps():
        channel.say(**step([tuple(prompt) for prompt in job["prompts"][number]], number))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
