"""A model's size is counted as transformers builds it, and read from its config.json as transformers reads it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from grpo.config import load
from grpo.errors import UserError
from launch.config.model_size import NotCounted, Shape, find_shape, read_shape
from launch.config.recipe import Recipe

ROOT = Path(__file__).resolve().parents[3]
MODELS = sorted(path.stem for path in ROOT.glob("configs/models/*.toml"))
KNOWN = {  # as the hub's model cards round them: 8.19 B, 4.02 B, 8.03 B, 32.8 B, 70.6 B, 135 M
    "qwen3-8b": 8_190_735_360,
    "qwen3-4b": 4_022_468_096,
    "llama3.1-8b": 8_030_261_248,
    "r1-llama3.1-8b": 8_030_261_248,
    "qwen3-32b": 32_762_123_264,
    "llama3.1-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
}
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
SMALL |= {"intermediate_size": 80, "vocab_size": 101}


def shape_of(model: str) -> Shape:
    shape = load(Recipe, [str(ROOT / f"configs/models/{model}.toml")]).model.shape
    assert shape is not None
    return shape


def on_meta(config) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def config_of(shape: Shape):
    cls = Qwen3Config if shape.qk_norm else LlamaConfig
    return cls(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )


@pytest.mark.parametrize("model", MODELS)
def test_the_shape_in_every_model_recipe_counts_what_transformers_builds(model):
    shape = shape_of(model)
    assert shape.parameters == on_meta(config_of(shape))
    if model in KNOWN:
        assert shape.parameters == KNOWN[model]


def test_caches_of_the_papers_models():
    """Qwen3-8B: 2 x 36 layers x 8 heads x 128 x 2 bytes; reference: 147,456 bytes a token."""
    assert shape_of("qwen3-8b").cache_bytes(2) == 147_456
    assert shape_of("llama3.1-8b").cache_bytes(2) == 131_072
    assert shape_of("llama3.1-70b").cache_bytes(4) == 655_360


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cls", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_a_saved_config_is_counted_as_it_is_built(cls, tied, tmp_path):
    config = cls(**SMALL, tie_word_embeddings=tied)
    config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path / "config.json")
    assert shape.parameters == on_meta(AutoConfig.from_pretrained(tmp_path))
    assert shape.tied is tied
    assert find_shape(str(tmp_path), None) == (shape, str(tmp_path / "config.json"))


def test_a_null_stands_for_the_default_and_a_missing_tie_for_untied(tmp_path):
    config = {"model_type": "llama", **SMALL, "head_dim": None, "num_key_value_heads": None}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shape = read_shape(tmp_path / "config.json")
    assert (shape.head_dim, shape.kv_heads, shape.tied) == (8, 6, False)
    assert shape.parameters == on_meta(AutoConfig.from_pretrained(tmp_path))


def test_the_recipes_shape_serves_where_no_config_is_on_disk():
    shape = shape_of("tiny")
    assert find_shape("random:tiny", shape) == (shape, "[model.shape] of the recipe")
    assert find_shape("nobody/no-such-model-1", shape) == (shape, "[model.shape] of the recipe")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma2"}, r"config.json: model_type = 'gemma2': .* counted: llama, mistral, qwen2, qwen3"),
        ({"hidden_size": "48"}, r"config.json: hidden_size = '48': expected a whole number, 1 or more"),
        ({"vocab_size": None}, r"config.json: vocab_size = None: expected a whole number"),
        ({"attention_bias": True}, r"config.json: a llama with attention_bias or mlp_bias"),
    ],
)
def test_a_config_that_cannot_be_counted(change, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **SMALL} | change), encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_shape(tmp_path / "config.json")
    assert "\n" not in str(caught.value)


def test_the_recipes_shape_serves_where_the_family_is_not_counted(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "olmo2", **SMALL}), encoding="utf-8")
    with pytest.raises(NotCounted, match=r"model_type = 'olmo2'.*\[model.shape\] of the recipe"):
        find_shape(str(tmp_path), None)
    assert find_shape(str(tmp_path), shape_of("tiny"))[1] == "[model.shape] of the recipe"


def test_a_config_that_is_no_json_and_a_model_of_unknown_size(tmp_path):
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"config.json: cannot be read as JSON"):
        read_shape(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"model.name = 'nobody/no-such-model-1': neither its config.json"):
        find_shape("nobody/no-such-model-1", None)


def test_a_shape_in_a_recipe_is_checked(tmp_path):
    (tmp_path / "m.toml").write_text("[model.shape]\nlayers = 0\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"m.toml:2: model.shape.layers = 0: .*greater than or equal to 1"):
        load(Recipe, [str(tmp_path / "m.toml")])
    (tmp_path / "m.toml").write_text("[model.shape]\n\nlayer = 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"m.toml:3: unknown key model.shape.layer; did you mean model.shape.layers\?"):
        load(Recipe, [str(tmp_path / "m.toml")])
    (tmp_path / "m.toml").write_text("[model.shape]\nlayers = 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"m.toml:2: model.shape.hidden: Field required"):
        load(Recipe, [str(tmp_path / "m.toml")])
    whole = load(Recipe, [str(ROOT / "configs/models/qwen3-8b.toml"), "--model.shape.layers=3"])
    assert whole.model.shape is not None
    assert (whole.model.shape.layers, whole.model.shape.hidden) == (3, 4096)
