"""Which engine writes the completions: the recipe's, or the best that is there, with the reason in words."""

import importlib.util
import io
import json
from pathlib import Path

import pytest
import torch

from grpo.config import load
from grpo.errors import UserError
from grpo.settings import RolloutConfig
from grpo.telemetry.console import Console
from launch.builders.models import load_model, load_shell, write_tiny_model
from launch.builders.rollout import choose_rollout
from launch.config.recipe import Recipe
from tests.helpers.installed import need

ROOT = Path(__file__).resolve().parents[3]


def choose(folder, engine="auto", *arguments):
    said = io.StringIO()
    recipe = load(Recipe, [f"--rollout.engine={engine}", *arguments])
    return choose_rollout(recipe.rollout, str(folder), Console(said)), said.getvalue()


@pytest.fixture
def folder(tmp_path):
    write_tiny_model(tmp_path / "model")
    return tmp_path / "model"


def change(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.fixture(autouse=True)
def avx512(monkeypatch):
    """A processor that vLLM's CPU build is made for."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


def test_hf_where_vllm_would_gain_nothing(folder, monkeypatch):
    need("vllm")
    if torch.cuda.is_available():
        pytest.skip("GPUs gain")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    engine, said = choose(folder)
    assert engine == "hf"
    assert "auto, since vLLM's CPU build wants AVX-512" in said
    assert choose(folder, "vllm") == ("vllm", "rollouts     vllm: as the recipe asks\n")


def test_vllm_where_it_is_installed_and_knows_the_model(folder):
    need("vllm")
    assert choose(folder) == ("vllm", "rollouts     vllm: auto, since vLLM is installed and knows the model\n")
    assert choose(folder, "hf") == ("hf", "rollouts     hf: as the recipe asks\n")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"architectures": ["BabbageForCausalLM"]}, "vLLM does not know BabbageForCausalLM"),
        ({"architectures": None}, "vLLM does not know a model without a named architecture"),
    ],
)
def test_hf_where_vllm_does_not_know_the_model(folder, values, why):
    need("vllm")
    change(folder, **values)
    assert choose(folder) == ("hf", f"rollouts     hf: auto, since {why}\n")
    with pytest.raises(UserError, match=f'rollout.engine = "vllm": {why}; valid here: "hf"'):
        choose(folder, "vllm")


def test_hf_where_the_cpu_build_has_no_such_attention(folder):
    need("vllm")
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("GPUs have attention of this size")
    change(folder, head_dim=8)
    assert "vLLM's CPU build has no attention heads of size 8, only 32, 64" in choose(folder)[1]


def test_hf_where_vllm_is_not_installed(folder, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else real(name, *a))
    assert choose(folder) == ("hf", "rollouts     hf: auto, since vLLM is not installed\n")
    with pytest.raises(UserError, match="vLLM is not installed"):
        choose(folder, "vllm")
    with pytest.raises(UserError, match="tensor_parallel = 2 is for vLLM, and vLLM is not installed; valid: 1"):
        choose(folder, "auto", "--rollout.tensor_parallel=2")


def test_a_shell_is_the_model_without_its_weights(folder):
    model, shell = load_model(str(folder), device="cpu"), load_shell(str(folder))
    assert all(parameter.is_meta for parameter in shell.parameters())
    shapes = [{name: p.shape for name, p in m.named_parameters()} for m in (model, shell)]
    assert shapes[0] == shapes[1]
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not the configuration of a causal language model"):
        load_shell(str(folder))


def test_several_ranks_for_one_engine_are_vllms_business():
    with pytest.raises(UserError, match=r"rollout.tensor_parallel = 2 is for vLLM"):
        load(Recipe, ["--rollout.engine=hf", "--rollout.tensor_parallel=2"])


def test_a_server_is_for_training(folder):
    assert choose(folder, "server") == ("server", "rollouts     server: as the recipe asks\n")
    with pytest.raises(UserError, match='"server" is for training, which sends it weights'):
        choose_rollout(RolloutConfig(engine="server"), str(folder), Console(io.StringIO()), fixed=True)


def test_ranks_that_cannot_be_shared_are_refused(folder):
    need("vllm")
    from grpo.rollout.vllm import start_vllm

    with pytest.raises(UserError, match="tensor_parallel = 2 does not divide the 1 rank; valid: 1"):
        start_vllm(str(folder), context=64, rows=4, dtype="float32", memory=0.4, kv_cache=0.1, tensor_parallel=2)
