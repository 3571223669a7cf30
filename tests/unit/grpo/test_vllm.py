"""The settings that make vLLM sample from the policy which the trainer trains; no engine is started."""

import pytest

from grpo.rollout.vllm import engine_settings


@pytest.mark.parametrize(
    ("gpu", "dtype", "head"), [(True, "bfloat16", {"head_dtype": "float32"}), (True, "float32", {})]
)
def test_the_head_is_float32_on_a_gpu_as_the_trainers_is(gpu, dtype, head):
    assert engine_settings(dtype, gpu=gpu)["hf_overrides"] == head
    assert engine_settings(dtype, gpu=False)["hf_overrides"] == {}  # the CPU build has no such product


def test_no_pickle_and_no_defaults_of_the_model():
    settings = engine_settings("float32", gpu=False)
    assert (settings["load_format"], settings["generation_config"]) == ("safetensors", "vllm")
