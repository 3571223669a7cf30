"""Which way through the attention of a shared prompt? Ratios within one run, on the shape of the embedded model.

    python benchmarks/attention.py [--layers 30] [--rounds 3] [--shapes 4x8x400+48 2x8x1200+100]

Forward and backward of one update, random weights, float32, the head included: (a) a row per group under a dense mask,
(b) all groups in one row under a dense mask, (c) without a mask over copied keys, (d) without a mask or copies, which
is what the trainer does on a CPU. Interleaved; seconds are of the process's own CPU time, so that another process on
the machine disturbs them little. Then the head by itself, forward and backward.
"""

import argparse
import functools
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.model import attention, forward
from grpo.model.lm_head import chunked_logprobs

SIZES = {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536}
SIZES |= {"num_attention_heads": 9, "num_key_value_heads": 3}


def random_model(layers: int) -> Any:
    """A Llama of the embedded model's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SIZES, num_hidden_layers=layers, tie_word_embeddings=True, attn_implementation="sdpa")
    return LlamaForCausalLM(config).float()


def random_groups(prompts: int, group: int, prompt: int, completion: int) -> Batch:
    """So many groups of full length."""
    ids_BC = torch.randint(0, SIZES["vocab_size"], (prompts * group, completion))
    return Batch(
        prompts=tuple(tuple(torch.randint(0, SIZES["vocab_size"], (prompt,)).tolist()) for _ in range(prompts)),
        group_B=torch.arange(prompts).repeat_interleave(group),
        ids_BC=ids_BC,
        learn_BC=torch.ones_like(ids_BC, dtype=torch.bool),
        advantage_B=torch.randn(len(ids_BC)),
        sampler_logp_BC=torch.zeros(ids_BC.shape),
    )


def dense(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[attention.Span], scale: float) -> Tensor:
    """The same by one call under a mask of all pairs of positions."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    mask_LL = dense_mask(tuple(spans))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_LL, scale=scale)
    return out.transpose(1, 2)


@functools.lru_cache(maxsize=1)  # once for all layers, as a mask that is an argument of the model
def dense_mask(spans: tuple[attention.Span, ...]) -> Tensor:
    """Who may look at whom: bool [L, L]."""
    owner_L = torch.zeros(spans[-1].completions.stop, dtype=torch.long)
    group_L = torch.zeros_like(owner_L)
    for number, span in enumerate(spans):
        group_L[span.prompt] = group_L[span.completions] = number
        sibling_nR = torch.arange(1, len(span.index_nR) + 1)[:, None].expand_as(span.index_nR)
        owner_L[span.index_nR.flatten()[span.valid_S]] = sibling_nR.flatten()[span.valid_S]
    same = group_L[:, None] == group_L[None]
    mine = (owner_L[None] == 0) | (owner_L[:, None] == owner_L[None])
    return same & mine & torch.ones_like(same).tril()


def update_seconds(model: Any, batch: Batch, kernel: Callable[..., Tensor], budget: int) -> float:
    """CPU seconds of forward and backward of a whole batch, in micro-batches of at most `budget` tokens."""
    attention.merged_attention = kernel
    model.zero_grad()
    began = time.process_time()
    for index in forward.micro_batches(batch, layout="shared", token_budget=budget):
        logp_BC, _ = forward.completion_logprobs(model, batch.rows(index), layout="shared")
        logp_BC.sum().backward()
    return time.process_time() - began


def head_seconds(batch: Batch) -> float:
    """CPU seconds of the head alone."""
    weight_VD = torch.randn(SIZES["vocab_size"], SIZES["hidden_size"]).mul_(0.02).requires_grad_()
    hidden_ND = torch.randn(batch.ids_BC.numel(), SIZES["hidden_size"], requires_grad=True)
    began = time.process_time()
    logp_N, _ = chunked_logprobs(hidden_ND, weight_VD, batch.ids_BC.flatten())
    logp_N.sum().backward()
    return time.process_time() - began


def matmul_peak() -> float:
    """GFLOP/s of a CPU second in a square product, the best of five."""
    x = torch.randn(2048, 2048)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        x @ x
        seconds.append(time.process_time() - began)
    return 2 * 2048**3 / min(seconds) / 1e9


def useful_flops(layers: int, prompts: int, group: int, prompt: int, completion: int) -> float:
    """Of one update, each distinct token once: products of layers and head, and pairs that attend; backward is twice
    the forward pass, and nothing is counted twice for being computed again."""
    d, i, v = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["vocab_size"]
    fed = completion - 1
    tokens = prompt + group * fed
    pairs = prompt * (prompt + 1) / 2 + group * (fed * prompt + fed * (fed + 1) / 2)
    layer = 2 * tokens * (2 * d * d + 2 * d * d // 3 + 3 * d * i) + 4 * pairs * d
    return 3 * prompts * (layers * layer + 2 * group * completion * d * v)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Ways through the attention of a shared prompt.")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=["4x8x400+48", "2x8x1200+100"])
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    model = random_model(options.layers)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.layers} layers")
    for shape in options.shapes:
        sizes = [int(number) for number in re.fullmatch(r"(\d+)x(\d+)x(\d+)\+(\d+)", shape).groups()]  # type: ignore
        batch, one = random_groups(*sizes), sizes[2] + sizes[1] * (sizes[3] - 1)
        ways: dict[str, tuple[Callable[..., Tensor], int]] = {
            "a dense, a row per group": (dense, one),
            "b dense, all in one row": (dense, one * sizes[0]),
            "c copied, all in one row": (attention.copied_attention, one * sizes[0]),
            "c copied, a row per group": (attention.copied_attention, one),
            "d merged, all in one row": (MERGED, one * sizes[0]),
            "d merged, a row per group": (MERGED, one),
        }
        taken: dict[str, list[float]] = {name: [] for name in [*ways, "head alone"]}
        peaks = []
        for _ in range(options.rounds):
            peaks.append(matmul_peak())
            for name, (kernel, budget) in ways.items():
                taken[name].append(update_seconds(model, batch, kernel, budget))
            taken["head alone"].append(head_seconds(batch))
        flops, best = useful_flops(options.layers, *sizes), max(peaks)
        print(f"{shape}: {flops / 1e12:.3f} TFLOP useful, matmul peak {best:.1f} GFLOP/s of a core")
        for name, seconds in taken.items():
            mfu = "" if name == "head alone" else f", useful MFU {flops / min(seconds) / 1e9 / best:.0%}"
            print(f"  {name:<27} {' '.join(f'{x:.2f}' for x in seconds)} s{mfu}", flush=True)
    return 0


MERGED = attention.merged_attention

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
