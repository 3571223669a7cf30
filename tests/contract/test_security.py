"""What a model, a data set or a neighbour may do to the machine: nothing but be read."""

import ast
import json
import re
import sys

import pytest

from grpo.errors import UserError
from grpo.rollout.server import Address, Server
from grpo.settings import RolloutConfig
from launch.builders.models import load_model, load_shell, load_tokenizer
from tests.helpers.source_tree import ROOT, files, imports
from tests.helpers.toy import tiny_model

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
RUNS_WHAT_IT_READS = {"torch.load", "torch.save", "numpy.load", "np.load", "yaml.load", "eval", "exec"}
PICKLED = re.compile(r"(gather|reduce|broadcast|scatter|send|recv)_object")
LOADS_MODELS = ("from_pretrained", "from_config", "LLM")


def calls(tree):
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_nothing_is_pickled_and_no_file_is_run():
    """But for what ranks of one run send each other, which torch.distributed pickles (`all_gather_object`): processes
    that one launcher has started, over a port that is theirs, and nothing that was ever in a file."""
    for place, tree in files().items():
        assert not {name.split(".")[0] for name in imports(tree)} & PICKLES, place
        assert not {name for name, _ in calls(tree)} & RUNS_WHAT_IT_READS, place
    speaking = {place for place, tree in files().items() for name, _ in calls(tree) if PICKLED.search(name)}
    assert speaking == {"grpo/distributed/communicator.py", "grpo/rollout/vllm.py"}


def test_no_call_trusts_the_code_of_a_model():
    """transformers asks on the terminal where it is not told, so every call says so."""
    found = 0
    for path, tree in files().items():
        for name, node in calls(tree):
            if name.rpartition(".")[2] not in LOADS_MODELS or name.startswith(("GenerationConfig", "self")):
                continue
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert said.get("trust_remote_code") == "False" or said.get(None) == "OURS", f"{path}: {ast.unparse(node)}"
            found += 1
    assert found >= 8
    text = "".join((ROOT / place).read_text(encoding="utf-8") for place in files())
    assert "trust_remote_code=True" not in text.replace(" ", "")


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """A model folder that brings its own code, which leaves a file when it is run. Nobody sits at the terminal."""
    folder, ran = tmp_path / "strange", tmp_path / "ran"
    tiny_model().save_pretrained(folder)
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass A: pass\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "strange"
    config["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "code.A")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["code.A", None]}}))
    monkeypatch.setattr(sys, "stdin", None)
    return folder, ran


@pytest.mark.parametrize("load", [load_tokenizer, load_shell, lambda folder: load_model(folder, device="cpu")])
def test_code_that_a_model_brings_is_never_run(strange, load):
    folder, ran = strange
    with pytest.raises(UserError, match="strange"):
        load(str(folder))
    assert not ran.exists()


def test_weights_in_a_pickle_are_not_read(tmp_path):
    """Also where the name is a hub's: a folder of ours is refused before, for having no safetensors."""
    import torch

    model = tiny_model()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no causal language model can be loaded: .*safetensors"):
        load_model(str(tmp_path), device="cpu")


def test_the_rollout_server_is_reached_from_this_machine_only_or_with_a_token():
    with Server(Address(0)) as server:
        assert server.server_address[0] == "127.0.0.1"
    for token in ("", "short"):
        with pytest.raises(UserError, match=r"rollout.host = '10\.9\.8\.7': .*GROUND_GRPO_TOKEN .* 16 characters"):
            Server(Address(0, "10.9.8.7", token))


def test_the_token_is_shown_nowhere():
    assert "secret" not in repr(Address(1, "10.0.0.1", "secret")) + str(Address(1, "10.0.0.1", "secret"))
    assert not any("token" in name.casefold() for name in RolloutConfig.model_fields)
    # What is kept of a recipe has no place for it.


def test_servers_are_made_in_one_place():
    bound = {place for place, tree in files().items() for name, _ in calls(tree) if name.endswith("Server")}
    assert bound == {"launch/serve.py"}
    assert not any(
        isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::")
        for tree in files().values()
        for node in ast.walk(tree)
    )
