"""What is measured: so many prompts and completions of given lengths, random tokens, and models of given sizes.

Weights are random, which costs the same time as trained ones; `make_model` gives the same ones every time.
"""

import os
import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grpo.batch import Batch
from grpo.errors import UserError
from grpo.telemetry.throughput import TokenCounts, group_counts
from grpo.types import TokenIds
from launch.config.model_size import read_config

ROOT = Path(__file__).resolve().parents[1]
SMALL_QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
CONFIGS = {  # beside those of configs/models
    "qwen3-0.6b": {**SMALL_QWEN3, "hidden_size": 1024, "intermediate_size": 3072},
    "qwen3-1.7b": {**SMALL_QWEN3, "hidden_size": 2048, "intermediate_size": 6144},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The questions of one step, `Workload(prompts=4, group=8, prompt_tokens=400, completion_tokens=48)`."""

    prompts: int
    group: int
    prompt_tokens: int
    completion_tokens: int

    def __str__(self) -> str:
        return f"{self.prompts}x{self.group}x{self.prompt_tokens}+{self.completion_tokens}"

    @property
    def work(self) -> TokenCounts:
        one = group_counts(self.prompt_tokens, [self.completion_tokens] * self.group)
        return sum([one] * self.prompts, TokenCounts())

    @property
    def group_tokens(self) -> int:
        """Tokens of a group with its prompt once: the smallest budget that runs no prompt twice."""
        return self.prompt_tokens + self.group * self.completion_tokens

    @property
    def token_ratio(self) -> float:
        """G (P + R) / (P + G R): how many times fewer distinct tokens there are than a plain trainer runs."""
        return self.group * (self.prompt_tokens + self.completion_tokens) / self.group_tokens


def parse_workload(text: str) -> Workload:
    """`4x8x400+48`: prompts x samples of each x (prompt + completion tokens). UserError for anything else."""
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)\+(\d+)", text)
    numbers = [int(number) for number in found.groups()] if found else [0]
    if min(numbers) < 1 or numbers[1] < 2:
        raise UserError(
            f"shape {text!r}: expected PROMPTSxGROUPxPROMPT+COMPLETION, as in 4x8x400+48, with a group of 2 or more"
        )
    prompts, group, prompt, completion = numbers
    return Workload(prompts=prompts, group=group, prompt_tokens=prompt, completion_tokens=completion)


def random_prompts(workload: Workload, *, vocabulary: int, seed: int) -> list[TokenIds]:
    """Prompts of exactly the asked length, other ones for another seed."""
    stream = random.Random(seed)
    return [
        tuple(stream.randrange(1, vocabulary) for _ in range(workload.prompt_tokens)) for _ in range(workload.prompts)
    ]


def random_batch(workload: Workload, *, vocabulary: int, seed: int) -> Batch:
    """Random completions whose advantages differ from 0, so that every row is trained on."""
    stream = torch.Generator().manual_seed(seed)
    rows = workload.prompts * workload.group
    ids_BC = torch.randint(1, vocabulary, (rows, workload.completion_tokens), generator=stream)
    return Batch(
        prompts=tuple(random_prompts(workload, vocabulary=vocabulary, seed=seed)),
        group_B=torch.arange(workload.prompts).repeat_interleave(workload.group),
        ids_BC=ids_BC,
        learn_BC=torch.ones_like(ids_BC, dtype=torch.bool),
        advantage_B=alternating(rows),
        sampler_logp_BC=torch.zeros(ids_BC.shape),
    )


def alternating(rows: int) -> torch.Tensor:
    """1, -1, 1, ...: advantages of which none is 0, float32 [rows]."""
    return 1.0 - 2.0 * (torch.arange(rows) % 2)


def find_model_config(name: str, *, layers: int | None = None) -> dict[str, Any]:
    """The configuration of a model folder, a name in `CONFIGS` or a recipe in configs/models, with so many layers.

    UserError where there is no such name.
    """
    recipe = ROOT / "configs" / "models" / f"{name}.toml"
    if (Path(name) / "config.json").is_file():
        config = read_config(Path(name) / "config.json")
    elif name in CONFIGS:
        config = CONFIGS[name]
    elif recipe.is_file():
        config = tomllib.loads(recipe.read_text(encoding="utf-8"))["model"]["config"]
    else:
        names = sorted({*CONFIGS, *(file.stem for file in recipe.parent.glob("*.toml"))})
        raise UserError(f"model {name!r}: no model folder and no known name; valid: {', '.join(names)}")
    most = config["num_hidden_layers"]
    if layers is not None and not 1 <= layers <= most:
        raise UserError(f"layers = {layers}: {name} has {most}; valid: 1 to {most}")
    return {**config, "num_hidden_layers": layers or most}


def make_model(config: Mapping[str, Any], *, positions: int, seed: int = 0) -> Any:
    """A transformers model of this configuration with random weights in float32, attention through SDPA.

    `positions` is the longest prompt with its completion. No token stops it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    own = {"max_position_embeddings": positions, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**{**config, **own}), dtype=torch.float32, attn_implementation="sdpa"
    )


def write_model_folder(config: Mapping[str, Any], folder: Path, *, positions: int) -> None:
    """Random weights as a model folder that every contender loads, with a tokenizer of one word per token: t0, t1, ...

    So the same token ids reach trainers that take text. The last token is the tokenizer's stop token. The model names
    none: vLLM stops at what a model's own settings name, whatever a request asks for.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()  # the driver has its own signs of life
    if not torch.cuda.is_available():  # else transformers, to save, imports a DeepSpeed that warns of finding no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    model = make_model(config, positions=positions)
    model.save_pretrained(folder)
    vocabulary = config["vocab_size"]
    words = Tokenizer(models.WordLevel({f"t{token}": token for token in range(vocabulary)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=f"t{vocabulary - 1}", pad_token="t0", unk_token="t0"
    ).save_pretrained(folder)
