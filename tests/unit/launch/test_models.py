"""Model folders that people have: adapters beside base weights, generation configurations that do not validate."""

import json

import pytest
from transformers import GenerationConfig

from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.models import load_configurations, load_model, locate, write_tiny_model


@pytest.fixture
def folder(tmp_path):
    write_tiny_model(tmp_path)
    return tmp_path


def test_an_adapter_beside_base_weights_is_refused_since_it_would_be_ignored(folder):
    assert locate(str(folder), console=Console()) == str(folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match=r"holds an adapter \(adapter_config.json\), which would be ignored; merge it"):
        locate(str(folder), console=Console())


def test_a_generation_config_that_does_not_validate_loses_no_model(folder, tmp_path):
    bad = {"eos_token_id": [0, 7], "do_sample": False, "temperature": 0.9, "top_p": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(bad))
    model = load_model(str(folder), device="cpu")
    model.save_pretrained(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (saved.eos_token_id, saved.temperature) == ([0, 7], GenerationConfig().temperature)


def test_eos_ids_may_stand_in_the_generation_configuration_alone(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    model, generation = load_configurations(str(folder))
    assert (model.eos_token_id, generation.eos_token_id) == (0, 7)
    (folder / "generation_config.json").unlink()
    assert load_configurations(str(folder))[1] is None
