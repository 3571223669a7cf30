"""How long does one update take, and what does it need? Prints one line of JSON.

    python -m benchmarks.update --prompts 4 --group 8 --prompt-tokens 400 --completion-tokens 48 --layout shared

The real policy engine of one process over a model of the given sizes with random weights: forward and backward of every
micro-batch, clipping, Adam. One update to warm up (Adam's moments, late loading) is not counted. Peak memory is that of
this process, weights and optimizer included, while the counted updates ran.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

import torch

from benchmarks.machine import PeakMemory, machine, peak_flops
from benchmarks.workload import Workload, find_model_config, make_model, parse_workload, random_batch
from grpo.batch import Batch
from grpo.errors import UserError
from grpo.losses import make_loss, with_token_weights
from grpo.model.forward import Layout
from grpo.policy.engine import Policy
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.precision import resolve_bf16
from grpo.policy.torch_backend import torch_policy
from grpo.settings import LossConfig
from grpo.telemetry.throughput import (
    BACKWARD,
    ForwardTokenCounter,
    TokenCounts,
    attention_flops,
    padding,
    sharing,
    synchronize,
    useful_flops,
)
from launch.config.model_size import ModelSize, count


def make_policy(model: Any, asked: argparse.Namespace, *, budget: int, updates: int) -> Policy:
    """The engine as a run has it. The rate is so small that random weights stay what they are."""
    return torch_policy(
        model,
        optim=AdamWConfig(lr=1e-6, schedule="constant", warmup_ratio=0.0),
        total_updates=updates,
        token_budget=budget,
        layout=asked.layout,
        dtype=asked.dtype,
        gradient_checkpointing=asked.gradient_checkpointing,
    )


def update_flops(dims: ModelSize, counts: TokenCounts) -> float:
    """Return the operations of one forward and backward pass by the field's convention.

    3 (2 N distinct + 4 layers width pairs), as in PaLM (arXiv 2204.02311, appendix B). N leaves out an input embedding
    of its own (a look-up) and has the head in it for every distinct token. Attention is counted where a token may look,
    so half of a full square. The optimizer and recomputation are not counted.
    """
    multiplied = dims.parameters - (0 if dims.tied else dims.head_parameters)
    return (1 + BACKWARD) * (2.0 * multiplied * counts.distinct + attention_flops(dims, counts))


def weighed(batch: Batch) -> Batch:
    """The batch with GRPO's own averaging over all of its rows."""
    return with_token_weights(batch, LossConfig(aggregation="sequence"))


LOSS = make_loss(LossConfig(importance_cap=0.0))  # nothing was sampled, so nothing is corrected


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """One warm-up and `repeat` updates, each on a batch of its own; the line that is printed."""
    if asked.threads:
        torch.set_num_threads(asked.threads)
    device = torch.device(asked.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bf16 = resolve_bf16(asked.dtype, device)
    config, workload = find_model_config(asked.model, layers=asked.layers), workload_of(asked)
    size = count(config, asked.model)
    peak = peak_flops(device, torch.bfloat16 if bf16 else torch.float32)
    model = make_model(config, positions=workload.prompt_tokens + workload.completion_tokens, seed=asked.seed)
    budget = asked.token_budget or workload.group_tokens
    policy = make_policy(model.to(device), asked, budget=budget, updates=1 + asked.repeat)
    counter, memory = ForwardTokenCounter(), PeakMemory(device)
    counter.attach(model)
    batches = [
        weighed(random_batch(workload, vocabulary=size.vocabulary, seed=asked.seed + number))
        for number in range(1 + asked.repeat)
    ]
    timed_update(policy, batches[0], device)  # to warm up
    counter.take()
    memory.begin()
    seconds = [timed_update(policy, batch, device) for batch in batches[1:]]
    peak_bytes = memory.take()
    ran, calls = counter.take()
    return {
        "benchmark": "update",
        "model": asked.model,
        "layers": size.layers,
        "parameters": size.parameters,
        "shape": str(workload),
        "layout": asked.layout,
        "seconds": round(statistics.median(seconds), 4),
        "seconds_all": [round(second, 4) for second in seconds],
        "peak_bytes": peak_bytes,
        **counts(workload.work, ran // asked.repeat, asked.layout),
        **rates(size, workload.work, statistics.median(seconds), peak),
        "token_budget": budget,
        "micro_batches": calls // asked.repeat,
        "dtype": "bfloat16" if bf16 else "float32",
        "gradient_checkpointing": asked.gradient_checkpointing,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seed": asked.seed,
        "machine": machine(),
    }


def timed_update(policy: Policy, batch: Batch, device: torch.device) -> float:
    """Seconds of one update, until the device has done it."""
    synchronize(device)
    started = time.perf_counter()
    stats = policy.update(batch, LOSS)
    synchronize(device)
    seconds = time.perf_counter() - started
    assert not stats["skipped"], "an update without a finite gradient measures nothing"
    return seconds


def counts(work: TokenCounts, computed: int, layout: Layout) -> dict[str, Any]:
    """Tokens of one update: `computed` are the positions that the decoder ran, padding included."""
    return {
        "tokens_computed": computed,
        "tokens_distinct": work.distinct,
        "tokens_equivalent": work.equivalent,
        "sharing": round(sharing(work, computed), 4),
        "padding": round(padding(work, computed, shared=layout == "shared"), 4),
    }


def rates(size: ModelSize, work: TokenCounts, seconds: float, peak: float) -> dict[str, Any]:
    """Tokens and useful operations of one update by the second, these also as a share of the peak."""
    return {
        "tokens_per_second": round(work.distinct / seconds, 1),
        "equivalent_per_second": round(work.equivalent / seconds, 1),
        "mfu": round(update_flops(size, work) / seconds / peak, 4),
        "mfu_needed": round(useful_flops(size, work) / seconds / peak, 4),
        "peak_flops": round(peak),
    }


def workload_of(asked: argparse.Namespace) -> Workload:
    """What was asked for; UserError for a group of one, which has no advantage."""
    return parse_workload(f"{asked.prompts}x{asked.group}x{asked.prompt_tokens}+{asked.completion_tokens}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = partial(parser.add_argument, type=positive)
    number("--prompts", default=4)
    number("--group", default=8, help="completions of each prompt")
    number("--prompt-tokens", default=400)
    number("--completion-tokens", default=48)
    parser.add_argument("--layout", choices=("shared", "padded"), default="shared")
    parser.add_argument("--model", default="smollm2-135m", help="a model folder, for its sizes, or a named shape")
    number("--layers", help="so many of the model's layers; all of them if not given")
    number("--token-budget", help="model tokens of a micro-batch; one whole group if not given")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one if not given")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    number("--repeat", default=3, help="counted updates")
    number("--threads", help="torch's own number if not given")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    try:
        print(json.dumps(measure(asked)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def positive(text: str) -> int:
    """A whole number from 1, as argparse wants to be told."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
