"""The peer's contender: TRL's GRPOTrainer, stopped before every step until `benchmarks/channel.py` says go.

    .venv-trl/bin/python -m benchmarks.trl_step JOB.json

Runs in TRL's own virtual environment. Its settings are the fastest that compute the same thing: no reference model, no
gradient checkpointing unless asked, its fused head, one update per rollout so that it makes no pass for old
log-probabilities, no logging of completions. The micro-batch comes with the job.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.channel import Channel
from benchmarks.machine import PeakMemory, machine
from benchmarks.workload import parse_workload


class StepByStep(TrainerCallback):
    """Waits for a command before each optimizer step, and answers after it."""

    def __init__(self, channel: Channel, memory: PeakMemory, tokens: int) -> None:
        self._channel, self._memory, self._tokens = channel, memory, tokens
        self._commands = channel.steps()
        self._started = self._rollout = self._before = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if next(self._commands, None) is None:
            sys.exit(0)
        self._rollout = self._before = 0.0
        self._memory.begin()
        self._started = time.perf_counter()

    def generated(self, seconds: float, completions: list[list[int]]) -> None:
        self._rollout += seconds
        assert all(len(ids) == self._tokens for ids in completions), "a completion stopped early"

    def scored(self, seconds: float) -> None:
        """All that comes before the update: generation, rewards, advantages."""
        self._before += seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        step = time.perf_counter() - self._started
        self._channel.say(rollout=self._rollout, update=step - self._before, step=step, peak_bytes=self._memory.take())


class Timed(GRPOTrainer):
    """The trainer as it is, with a clock around generation and around all that comes before the update."""

    clock: StepByStep

    def _generate(self, prompts: list[Any]) -> Any:
        started = time.perf_counter()
        written = super()._generate(prompts)
        self.clock.generated(time.perf_counter() - started, written[1])
        return written

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        started = time.perf_counter()
        scored = super()._generate_and_score_completions(inputs)
        self.clock.scored(time.perf_counter() - started)
        return scored


def alternating(completions: list[Any], **columns: Any) -> list[float]:
    """1, -1, 1, ...: rewards whose advantages are never 0."""
    return [1.0 - 2.0 * (number % 2) for number in range(len(completions))]


def settings(job: dict[str, Any], output: str) -> GRPOConfig:
    workload = parse_workload(job["workload"])
    rows, micro = workload.prompts * workload.group, job["micro_batch"]
    return GRPOConfig(
        output_dir=output,
        use_cpu=job["device"] == "cpu",
        bf16=job["dtype"] == "bfloat16",
        gradient_checkpointing=job["gradient_checkpointing"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        steps_per_generation=rows // micro,
        num_generations=workload.group,
        max_completion_length=workload.completion_tokens,
        generation_kwargs={"min_new_tokens": workload.completion_tokens},
        beta=0.0,
        num_iterations=1,
        loss_type="grpo",
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        max_steps=len(job["prompts"]),
        shuffle_dataset=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        seed=0,
    )


def main(path: str) -> int:
    channel = Channel()
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32, attn_implementation="sdpa")
    words = [" ".join(f"t{token}" for token in prompt) for step in job["prompts"] for prompt in step]
    clock = StepByStep(
        channel, PeakMemory(torch.device(job["device"])), parse_workload(job["workload"]).completion_tokens
    )
    with tempfile.TemporaryDirectory() as output:
        trainer = Timed(
            model=model,
            reward_funcs=alternating,
            args=settings(job, output),
            train_dataset=Dataset.from_dict({"prompt": words}),
            processing_class=AutoTokenizer.from_pretrained(job["folder"], padding_side="left"),
            callbacks=[clock],
        )
        trainer.clock = clock
        channel.say(threads=torch.get_num_threads(), machine=machine())
        trainer.train()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
