"""How large is a model? Its shape, from a recipe or a config.json, its parameters and its cache, counted from it.

Decoders of the Llama family only: what the trainer can run, and what memory plans (launch/planner/memory.py) are
made for.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from grpo.errors import UserError

Positive = Annotated[int, Field(ge=1)]

FAMILIES: dict[str, dict[str, bool]] = {  # model_type of a config.json -> what it adds to a Llama's parameters
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
}


class NotCounted(UserError):
    """No plan can be made for this model. That is no reason not to train it."""


@checked(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder's sizes, under the names of its config.json, or close to them.

    >>> Shape(layers=36, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=12288, vocabulary=151936,
    ...       tied=False, qk_norm=True).parameters
    8190735360
    """

    layers: Positive
    hidden: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    intermediate: Positive
    vocabulary: Positive
    tied: bool  # the head is the embedding: one matrix, counted once
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def attention(self) -> int:
        """Width of all queries together: heads x head_dim; the hidden size in most models, not in Qwen3-4B and 32B."""
        return self.heads * self.head_dim

    @property
    def key_values(self) -> int:
        """Width of all keys together, and of all values: kv_heads x head_dim."""
        return self.kv_heads * self.head_dim

    @property
    def head_parameters(self) -> int:
        """Of the output embedding, vocabulary x hidden: the largest single tensor of every model here."""
        return self.vocabulary * self.hidden

    @property
    def layer_parameters(self) -> int:
        """q, k, v, o; gate, up, down; two norms; in some families biases or norms of queries and keys."""
        count = 2 * self.hidden * (self.attention + self.key_values) + 3 * self.hidden * self.intermediate
        count += 2 * self.hidden
        count += (self.attention + 2 * self.key_values) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        return count

    @property
    def parameters(self) -> int:
        """Embedding, head unless tied, layers, last norm. Equal to the sum of numel() of the transformers model."""
        return (2 - self.tied) * self.head_parameters + self.layers * self.layer_parameters + self.hidden

    def cache_bytes(self, width: int) -> int:
        """Keys and values of one token, in numbers of `width` bytes: 147,456 bytes for Qwen3-8B in bfloat16."""
        return 2 * self.layers * self.key_values * width


def read_shape(file: Path) -> Shape:
    """The shape that a config.json gives. NotCounted for a family that is not known here."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: cannot be read as JSON: {error}") from None
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise NotCounted(
            f"{file}: model_type = {kind!r}: its parameters are not counted here; counted: {', '.join(FAMILIES)}; "
            "or say in a [model.shape] of the recipe what to plan with"
        )
    if kind == "llama" and (config.get("attention_bias") or config.get("mlp_bias")):
        raise NotCounted(f"{file}: a llama with attention_bias or mlp_bias is not counted here; valid: both false")
    return _shape(config, kind, file)


def _shape(config: Mapping[str, Any], kind: str, file: Path) -> Shape:
    def number(name: str, default: int | None = None) -> int:
        value = config.get(name)
        value = default if value is None else value  # null stands for the default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{file}: {name} = {value!r}: expected a whole number, 1 or more")
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    return Shape(
        layers=number("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=number("num_key_value_heads", heads if kind == "llama" else None),
        head_dim=number("head_dim", 128 if kind == "qwen3" else hidden // heads),
        intermediate=number("intermediate_size"),
        vocabulary=number("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),  # the default of these four families
        **FAMILIES[kind],
    )


def find_shape(name: str, given: Shape | None) -> tuple[Shape, str]:
    """(shape, where it is from): the config.json of a model folder or of the hub's cache, else the recipe's.

    The recipe's also where that config.json is of a family that is not counted.
    Nothing is downloaded. NotCounted where neither is there.
    """
    file = config_file(name)
    if file is not None:
        try:
            return read_shape(file), str(file)
        except NotCounted:
            if given is None:
                raise
    if given is not None:
        return given, "[model.shape] of the recipe"
    raise NotCounted(
        f"model.name = {name!r}: neither its config.json (a model folder, or the hub's cache) nor a [model.shape] in "
        "the recipe says how large it is; valid: one of the two"
    )


def config_file(name: str) -> Path | None:
    """Where the config.json of this model lies on disk, or None; embedded and random models have none to look for."""
    if (Path(name) / "config.json").is_file():
        return Path(name) / "config.json"
    if ":" in name or name.startswith((".", "/")) or name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found) if isinstance(found, str) else None
