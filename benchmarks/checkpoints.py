"""How much longer does a run take that saves every 5 steps? Prints one line of JSON.

    python -m benchmarks.checkpoints --shape 4x8x200+25 --every 5 --rounds 2

Our step as `benchmarks/our_step.py` takes it, on a model of the given sizes with random weights, in stretches of some
steps: one without a checkpoint, one that begins with one, in turn. A checkpoint is the run's own: a copy in memory,
for which the step waits, then files beside the next steps, flushed, read back and sealed. What is not done when its
stretch ends is waited for, as in a run.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

import torch

from benchmarks.machine import machine
from benchmarks.our_step import OurStep
from benchmarks.update import positive
from benchmarks.workload import Workload, find_model_config, parse_workload, random_prompts, write_model_folder
from grpo.checkpointing.manager import CheckpointManager
from grpo.distributed.communicator import SingleProcess
from grpo.errors import UserError
from grpo.settings import CheckpointConfig
from grpo.telemetry.console import Console


def job_of(workload: Workload, folder: Path, asked: argparse.Namespace, vocabulary: int) -> dict[str, Any]:
    """What `OurStep` is told: the hf engine and the shared prompt, two groups a micro-batch."""
    return {
        "folder": str(folder),
        "workload": str(workload),
        "prompts": [random_prompts(workload, vocabulary=vocabulary, seed=0)],
        "threads": asked.threads,
        "dtype": "float32",
        "device": "cpu",
        "gradient_checkpointing": False,
        "engine": "hf",
        "layout": "shared",
        "token_budget": 2 * workload.group_tokens,
    }


def saving(step: OurStep, folder: Path) -> CheckpointManager:
    """A run's own checkpoints of this step's policy, with nothing beside it."""
    return CheckpointManager(
        folder=folder,
        settings=CheckpointConfig(every=1, keep=2),
        steps=1_000_000,
        policy=step.policy,
        shared={},
        own={},
        about={},
        comm=SingleProcess(),
        console=Console(sys.stderr),
    )


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every stretch, without and with a checkpoint, and what the checkpoints weigh."""
    workload, config = parse_workload(asked.shape), find_model_config(asked.model)
    with tempfile.TemporaryDirectory(dir=asked.out) as work:
        model, runs = Path(work) / "model", Path(work) / "checkpoints"
        write_model_folder(config, model, positions=workload.prompt_tokens + workload.completion_tokens + 8)
        job = job_of(workload, model, asked, config["vocab_size"])
        step, prompts = OurStep(job), [tuple(prompt) for prompt in job["prompts"][0]]
        save = saving(step, runs)
        step(prompts, 0)
        seconds: dict[str, list[float]] = {"without": [], "with": []}
        done, held = 0, 0.0
        for _ in range(asked.rounds):
            for kind in seconds:
                started = time.perf_counter()
                if kind == "with":
                    save.on_step_end(done)
                    held += time.perf_counter() - started
                for _ in range(asked.every):
                    done += 1
                    step(prompts, done)
                if kind == "with":
                    with save.guard():  # on leaving, what is being written is waited for
                        pass
                seconds[kind].append(time.perf_counter() - started)
                print(
                    f"{kind} a checkpoint: {asked.every} steps, {seconds[kind][-1]:.1f} s", file=sys.stderr, flush=True
                )
        newest = max(runs.glob("step-*"), default=None)
        if newest is None:
            raise UserError(
                f"{work}: no checkpoint was kept there, for what the line above says; valid: --out with room"
            )
        weight = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    return {
        "benchmark": "checkpoints",
        "model": asked.model,
        "shape": str(workload),
        "every": asked.every,
        "bytes": weight,
        "held_seconds": round(held / asked.rounds, 2),
        "seconds": {kind: [round(one, 2) for one in each] for kind, each in seconds.items()},
        "overhead": round(sum(seconds["with"]) / sum(seconds["without"]) - 1, 4),
        "threads": asked.threads,
        "machine": machine(),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="4x8x200+25", help="PROMPTSxGROUPxPROMPT+COMPLETION")
    parser.add_argument("--model", default="smollm2-135m", help="a model folder, for its sizes, or a named shape")
    parser.add_argument("--every", type=positive, default=5, help="steps of a stretch")
    parser.add_argument("--rounds", type=positive, default=2, help="stretches of each kind")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="on the disk that is to be measured; the system's temporary folder")
    try:
        print(json.dumps(measure(parser.parse_args(argv))))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
