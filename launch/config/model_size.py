"""The size of a model, counted as transformers builds it on the meta device, without weights.

Memory plans (launch/planner/) and perf/mfu are computed from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.errors import UserError


class UnknownModelSize(UserError):
    """No plan can be made for this model, which may be trained all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """The sizes of a decoder: `ModelSize(parameters=8_190_735_360, layers=36, hidden=4096, ...)` is Qwen3-8B."""

    parameters: int  # a tied head is counted once
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int  # width of the feed-forward layers
    vocabulary: int
    tied: bool  # the head is the embedding
    qk_norm: bool = False  # queries and keys are normalized

    @property
    def attention(self) -> int:
        """Width of all queries together. Qwen3-4B and 32B are wider than the hidden size."""
        return self.heads * self.head_dim

    @property
    def key_values(self) -> int:
        """Width of all keys together, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def head_parameters(self) -> int:
        """Parameters of the output embedding, the largest single tensor of most models."""
        return self.vocabulary * self.hidden

    @property
    def trunk_parameters(self) -> int:
        """Parameters without the embedding and the head."""
        return self.parameters - (2 - self.tied) * self.head_parameters

    def cache_bytes(self, width: int) -> int:
        """Keys and values of one token, in numbers of `width` bytes: 147,456 bytes for Qwen3-8B in bfloat16."""
        return 2 * self.layers * self.key_values * width


def count(config: Mapping[str, Any], source: str) -> ModelSize:
    """The size of the model that transformers builds from the values of a config.json, which came from `source`.

    Raises UnknownModelSize where transformers cannot build a causal language model from them.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        own = {name: value for name, value in config.items() if name not in ("model_type", "quantization_config")}
        whole: Any = AutoConfig.for_model(config.get("model_type", ""), **own)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(whole, trust_remote_code=False)
    except Exception as error:  # each family checks its own values, by exceptions of many kinds
        reason = " ".join(str(error).split())[:200]
        raise UnknownModelSize(f"{source}: no causal language model of transformers: {reason}") from None
    text = whole.get_text_config()
    head = model.get_output_embeddings().weight
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=head.shape[0],
        tied=head is model.get_input_embeddings().weight,
        qk_norm=any(".q_norm." in name for name, _ in model.named_parameters()),
    )


def find_size(name: str, config: Mapping[str, Any]) -> tuple[ModelSize, str]:
    """(size, its source) of a model: the config.json of a folder or of the hub's cache, else the recipe's values.

    Nothing is downloaded. Raises UnknownModelSize where there is neither.
    """
    file = _config_file(name)
    if file is not None:
        return count(read_config(file), str(file)), str(file)
    if config:
        return count(config, "[model.config] of the recipe"), "[model.config] of the recipe"
    raise UnknownModelSize(
        f"model.name = {name!r}: its size is unknown; valid: a model folder, a model in the hub's cache, or a "
        "[model.config] in the recipe with the values of its config.json"
    )


def read_config(file: Path) -> dict[str, Any]:
    """The values of a config.json; UserError where it is not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: cannot be read as JSON: {error}") from None


def _config_file(name: str) -> Path | None:
    if (Path(name) / "config.json").is_file():
        return Path(name) / "config.json"
    if ":" in name or name.startswith((".", "/")) or name.count("/") != 1:
        return None  # embedded and random models, and folders that are missing
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found) if isinstance(found, str) else None
