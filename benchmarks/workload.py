"""What is measured: so many prompts and completions of given lengths, random tokens, and models of given sizes.

Weights are random, which costs the same time as trained ones; `make_model` gives the same ones every time.
"""

import os
import random
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from grpo.batch import Batch
from grpo.errors import UserError
from grpo.telemetry.flops import Work, group_work, total
from grpo.types import TokenIds
from launch.config.model_size import Shape, read_shape

ROOT = Path(__file__).resolve().parents[1]
SMALL_QWEN3: dict[str, Any] = {
    "layers": 28, "heads": 16, "kv_heads": 8, "head_dim": 128, "vocabulary": 151936, "tied": True, "qk_norm": True,
}  # fmt: skip
SHAPES = {  # beside those of configs/models
    "qwen3-0.6b": Shape(hidden=1024, intermediate=3072, **SMALL_QWEN3),
    "qwen3-1.7b": Shape(hidden=2048, intermediate=6144, **SMALL_QWEN3),
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
    def work(self) -> Work:
        one = group_work(self.prompt_tokens, [self.completion_tokens] * self.group)
        return total([one] * self.prompts)

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


def find_model_shape(name: str, *, layers: int | None = None) -> Shape:
    """The sizes of a model folder, of a name in `SHAPES`, or of a recipe in configs/models; `layers` of them if given.

    UserError where there is no such name.
    """
    recipe = ROOT / "configs" / "models" / f"{name}.toml"
    if (Path(name) / "config.json").is_file():
        shape = read_shape(Path(name) / "config.json")
    elif name in SHAPES:
        shape = SHAPES[name]
    elif recipe.is_file():
        shape = Shape(**tomllib.loads(recipe.read_text(encoding="utf-8"))["model"]["shape"])
    else:
        names = sorted({*SHAPES, *(file.stem for file in recipe.parent.glob("*.toml"))})
        raise UserError(f"model {name!r}: no model folder and no known shape; shapes: {', '.join(names)}")
    if layers is None:
        return shape
    if not 1 <= layers <= shape.layers:
        raise UserError(f"layers = {layers}: {name} has {shape.layers}; valid: 1 to {shape.layers}")
    return replace(shape, layers=layers)


def make_model(shape: Shape, *, positions: int, seed: int = 0) -> Any:
    """A transformers model of this shape with random weights in float32, attention through SDPA.

    `positions` is the longest prompt with its completion. No token stops it.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

    config = Qwen3Config if shape.qk_norm else Qwen2Config if shape.qkv_bias else LlamaConfig
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=positions,
            tie_word_embeddings=shape.tied,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        ),
        dtype=torch.float32,
        attn_implementation="sdpa",
    )
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == shape.parameters, f"{counted} parameters where the shape counts {shape.parameters}"
    return model


def write_model_folder(shape: Shape, folder: Path, *, positions: int) -> None:
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
    model = make_model(shape, positions=positions)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{token}": token for token in range(shape.vocabulary)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=f"t{shape.vocabulary - 1}", pad_token="t0", unk_token="t0"
    ).save_pretrained(folder)
