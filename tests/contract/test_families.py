"""Families of models through the shared layout, against the padded one; and which of them it cannot serve."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from grpo.errors import UserError
from grpo.losses import sft_loss, with_token_weights
from grpo.model.forward import completion_logprobs, resolve_layout
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.settings import LossConfig
from tests.helpers.forward_probe import Counted, logp_and_gradient, relative
from tests.helpers.toy import random_batch

EVERYWHERE = {"layer_types": ["full_attention", "full_attention"]}
FAMILIES = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {}),
    "gemma": (GemmaConfig, {}),
    "gemma2": (Gemma2Config, EVERYWHERE | {"final_logit_softcapping": None, "attn_logit_softcapping": None}),
    "gemma3": (Gemma3TextConfig, EVERYWHERE),
}
WINDOWS = {
    "mistral": (MistralConfig, {"sliding_window": 4}),
    "gemma3": (Gemma3TextConfig, {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}),
}


def tiny(kind, more):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 256,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "pad_token_id": None,
    }
    return AutoModelForCausalLM.from_config(kind(**sizes, **more), attn_implementation="sdpa")


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_family_is_served(family):
    """In float64: what is left is the float32 of the norms."""
    model = tiny(*FAMILIES[family]).double()
    assert resolve_layout(model, "shared") == "shared"
    batch = random_batch(prompts=(5, 9, 4), sizes=(3, 2, 1), lengths=(4, 1, 6, 2, 5, 3))
    logp_BC, gradient = logp_and_gradient(model, batch, "shared")
    oracle_BC, oracle = logp_and_gradient(model, batch, "padded")
    assert float((logp_BC - oracle_BC).abs().max()) < 5e-6
    assert relative(gradient, oracle) < 1e-6


@pytest.mark.parametrize("family", list(WINDOWS))
def test_windows_are_run_padded_with_a_line_that_says_so(family, caplog):
    model, batch = tiny(*WINDOWS[family]), random_batch()
    with pytest.raises(UserError, match=r'cannot serve sliding-window layers; valid here: policy.layout = "padded"'):
        resolve_layout(model, "shared")
    policy = torch_policy(model, optim=AdamWConfig(), total_updates=1, token_budget=1000, dtype="float32")
    assert caplog.messages == [
        "layout       padded: the shared prompt cannot serve sliding-window layers; every completion repeats its prompt"
    ]
    counted = Counted(model)
    policy.update(with_token_weights(batch, LossConfig(aggregation="token", kl_coef=1.0), max_tokens=9), sft_loss)
    assert counted.calls == [5 * 13]
    right_BC, _ = completion_logprobs(model, batch, layout="padded")
    wrong_BC, _ = completion_logprobs(model, batch, layout="shared")
    assert float((right_BC - wrong_BC).abs().max()) > 1e-2  # so that the line is no idle caution


def test_layers_that_go_their_own_way_show_on_a_probe(caplog):
    model = tiny(*FAMILIES["llama"])
    assert resolve_layout(model, "auto") == "shared"
    assert not caplog.messages
    for layer in model.model.layers:
        own = layer.self_attn.forward
        layer.self_attn.forward = lambda *args, own=own, spans=None, **kwargs: own(*args, **kwargs)
    assert resolve_layout(model, "auto") == "padded"
    assert "cannot serve llama: its layers do not follow the attention function (distance" in caplog.messages[0]
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UserError, match="cannot serve layers of the kind 'linear_attention'"):
        resolve_layout(model, "shared")
