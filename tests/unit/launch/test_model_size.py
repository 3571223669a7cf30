"""The size of a model is counted as transformers builds it, from a recipe or a config.json."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen2Config, Qwen3Config

from grpo.config import load
from grpo.errors import UserError
from launch.config.model_size import ModelSize, UnknownModelSize, count, find_size
from launch.config.recipe import Recipe

ROOT = Path(__file__).resolve().parents[3]
KNOWN = {  # as the hub's model cards round them: 8.19 B, 4.02 B, 8.03 B, 32.8 B, 70.6 B, 135 M
    "qwen3-8b": 8_190_735_360,
    "qwen3-4b": 4_022_468_096,
    "llama3.1-8b": 8_030_261_248,
    "r1-llama3.1-8b": 8_030_261_248,
    "qwen3-32b": 32_762_123_264,
    "llama3.1-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
    "tiny": 45_248,
}
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
SMALL |= {"intermediate_size": 80, "vocab_size": 101, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def size_of(model: str) -> ModelSize:
    recipe = load(Recipe, [str(ROOT / f"configs/models/{model}.toml")])
    return count(recipe.model.config, model)


def test_every_model_recipe_counts_what_the_model_card_says():
    assert sorted(KNOWN) == sorted(path.stem for path in ROOT.glob("configs/models/*.toml"))
    sizes = {model: size_of(model) for model in KNOWN}
    assert {model: size.parameters for model, size in sizes.items()} == KNOWN
    # Qwen3-8B: 2 x 36 layers x 8 heads x 128 x 2 bytes; reference: 147,456 bytes a token.
    assert sizes["qwen3-8b"].cache_bytes(2) == 147_456
    assert sizes["llama3.1-8b"].cache_bytes(2) == 131_072
    assert sizes["llama3.1-70b"].cache_bytes(4) == 655_360
    assert (sizes["qwen3-4b"].attention, sizes["qwen3-4b"].qk_norm, sizes["llama3.1-8b"].qk_norm) == (4096, True, False)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cls", [LlamaConfig, Qwen2Config, Qwen3Config, Gemma2Config])
def test_a_saved_config_is_counted_as_it_is_built(cls, tied, tmp_path):
    config = cls(**SMALL, head_dim=8, tie_word_embeddings=tied)
    config.save_pretrained(tmp_path)
    size, source = find_size(str(tmp_path), {"model_type": "llama"})
    assert source == str(tmp_path / "config.json")
    model = AutoModelForCausalLM.from_config(config)
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (size.layers, size.hidden, size.head_dim, size.vocabulary, size.tied) == (3, 48, 8, 101, tied)
    layers = sum(parameter.numel() for name, parameter in model.named_parameters() if ".layers." in name)
    assert size.trunk_parameters == layers + 48  # the last norm


def test_values_that_are_missing_are_the_familys_own(tmp_path):
    config = {"model_type": "llama", **SMALL, "head_dim": None, "num_key_value_heads": None}
    size = count(config, "a.json")
    assert (size.head_dim, size.kv_heads, size.tied) == (8, 6, False)


def test_the_recipes_values_serve_where_no_config_is_on_disk():
    config = {"model_type": "llama", **SMALL}
    assert find_size("random:tiny", config)[1] == "[model.config] of the recipe"
    assert find_size("nobody/no-such-model-1", config)[1] == "[model.config] of the recipe"
    with pytest.raises(UnknownModelSize, match=r"model.name = 'nobody/no-such-model-1': its size is unknown"):
        find_size("nobody/no-such-model-1", {})


@pytest.mark.parametrize("change", [{"model_type": "no-such"}, {"hidden_size": "48"}, {"num_attention_heads": 7}])
def test_a_config_that_cannot_be_counted_is_one_line(change):
    with pytest.raises(UnknownModelSize, match=r"^a.json: no causal language model of transformers: ") as caught:
        count({"model_type": "llama", **SMALL} | change, "a.json")
    assert "\n" not in str(caught.value)


def test_a_config_that_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"config.json: cannot be read as JSON"):
        find_size(str(tmp_path), {})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")
    with pytest.raises(UnknownModelSize, match="no causal language model"):
        find_size(str(tmp_path), {})
