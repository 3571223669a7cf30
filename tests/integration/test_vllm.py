"""vLLM in the trainer's process: faults stop the run, new weights need little room, the trainer keeps its threads.

What every engine promises is in test_rollout_contract.py. All of this runs on vLLM's CPU build and, where vLLM finds a
GPU, on that. Never tried by a test: what only GPUs have, the sleep and the memory share.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grpo.batch import collate
from grpo.errors import StaleWeights
from grpo.model.forward import completion_logprobs
from grpo.types import Group, Sampling
from tests.helpers.installed import embedded_llm, need, need_embedded, tiny_llm
from tests.helpers.toy import EOS, ByteTokenizer, example, tiny_model
from tests.helpers.toy_training import run_toy

ROOT = Path(__file__).resolve().parents[2]
LONG = "The beginning that all prompts share, long enough for blocks of it to be cached. " * 4 + "Q{}:"


SAMPLING = Sampling(group_size=2, max_tokens=16)


@pytest.fixture(autouse=True)
def _vllm():
    need("vllm")


class SameCache:
    """A vLLM that leaves its prefix cache as it is, whatever it says."""

    def __init__(self, llm, says):
        self._llm, self._says = llm, says

    def __getattr__(self, name):
        return getattr(self._llm, name)

    def reset_prefix_cache(self):
        return self._says


def engine(llm=None, *, push=lambda weights: weights):
    """An engine over the shared vLLM; `push` changes the list of what goes in, after it was found good."""
    from grpo.rollout.vllm import VllmRollout

    class Faulty(VllmRollout):
        def _update_weights(self, weights):
            super()._update_weights(push(list(weights)))

    shapes = {name: tuple(parameter.shape) for name, parameter in tiny_model(head_dim=32).named_parameters()}
    return Faulty(llm or tiny_llm(), shapes=shapes, decode=ByteTokenizer().decode, eos_ids=(EOS,))


def train(folder, rollout, *, steps=4):
    return run_toy(folder, steps=steps, rollout=rollout, model=tiny_model(head_dim=32), prompt=LONG, lr=3e-2)


def test_the_loop_trains_and_both_engines_agree(tmp_path):
    """The prompts come again and again: with a stale cache or a stale head they would not agree."""
    _, metrics = train(tmp_path / "run", engine(), steps=6)
    taught = [row for row in metrics if not row["policy/skipped"]]
    assert len(taught) > 3
    assert max(row["policy/mismatch"] for row in taught) < 1e-5


def forgetful():
    """Takes the first weights and no others."""
    first = []

    def push(weights):
        if not first:
            first.extend((name, tensor.clone()) for name, tensor in weights)
        return first

    return push


def exchanged(weights):
    """The layers under each other's names."""
    return [(re.sub(r"layers\.(\d)", lambda m: f"layers.{1 - int(m[1])}", name), tensor) for name, tensor in weights]


def shifted(weights):
    """The names in one order and the tensors in another: each gets the one before it of the same shape."""
    alike = {}
    for name, tensor in weights:
        alike.setdefault(tensor.shape, []).append((name, tensor))
    return [(name, pairs[i - 1][1]) for pairs in alike.values() for i, (name, _) in enumerate(pairs)]


@pytest.mark.parametrize(("push", "step"), [(forgetful(), 1), (exchanged, 0), (shifted, 0)])
def test_other_weights_than_the_trainers_stop_the_run(tmp_path, push, step):
    with pytest.raises(StaleWeights, match=f"step {step}: sampler and trainer differ"):
        train(tmp_path / "run", engine(push=push))


@pytest.mark.parametrize(
    ("says", "message"),
    [(True, "step 1: sampler and trainer differ"), (False, "vLLM kept its prefix cache when weights 0 came")],
)
def test_a_prefix_cache_that_is_not_reset_stops_the_run(tmp_path, says, message):
    tiny_llm().reset_prefix_cache()
    with pytest.raises(StaleWeights, match=message):
        train(tmp_path / "run", engine(SameCache(tiny_llm(), says)))


def test_a_tied_head_that_stays_packed_stops_the_run(tmp_path, monkeypatch):
    """What vLLM's CPU build does by itself: new embedding, new layers, old head."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("only the CPU build packs a head")
    engine().load(tiny_model(seed=5, head_dim=32).named_parameters(), version=0)
    monkeypatch.setattr("grpo.rollout.vllm._drop_packed_ties", lambda worker: None)
    monkeypatch.setattr("grpo.rollout.vllm._pack_ties", lambda worker: None)
    with pytest.raises(StaleWeights, match="step 0: sampler and trainer differ"):
        train(tmp_path / "run", engine())


def test_an_engine_between_two_versions_serves_nothing():
    rollout = engine()
    weights = list(tiny_model(head_dim=32).named_parameters())
    with pytest.raises(StaleWeights, match="is missing"):
        rollout.load(weights[:-1], version=3)
    for call in (lambda: rollout.load(weights, version=4), lambda: rollout.generate([(5, 6)], SAMPLING, seed=0)):
        with pytest.raises(
            StaleWeights, match=r"two versions, since the update after -1 was interrupted; .*launch/serve.py"
        ):
            call()


class Noted:
    """A vLLM whose calls are written down."""

    def __init__(self, llm):
        self._llm, self.calls = llm, []

    def __getattr__(self, name):
        value = getattr(self._llm, name)
        if not callable(value):
            return value

        def call(*arguments, **named):
            self.calls.append((name, *map(str, arguments), *(str(named[k]) for k in ("level", "tags") if k in named)))
            return value(*arguments, **named)

        return call


def test_it_wakes_before_the_push_and_finds_room_for_its_cache_after_it(monkeypatch):
    """The order of calls on a GPU. A CPU's worker takes the same calls and neither sleeps nor wakes."""
    llm = Noted(tiny_llm())
    monkeypatch.setattr(tiny_llm().llm_engine.vllm_config.model_config, "enable_sleep_mode", True)
    rollout, weights = engine(llm), list(tiny_model(head_dim=32).named_parameters())
    rollout.load(weights, version=0)
    rollout.release()
    rollout.release()
    with pytest.raises(StaleWeights, match="vLLM is asleep without weights"):
        rollout.generate([(5, 6)], SAMPLING, seed=0)
    llm.calls.clear()
    rollout.load(weights, version=1)
    kinds = [call[0] if "_ties" not in call[-1] else "ties" for call in llm.calls]
    assert kinds == ["wake_up", "ties", "collective_rpc", "ties", "wake_up", "reset_prefix_cache"]
    assert [call[1] for call in llm.calls if call[0] == "wake_up"] == ["['weights']", "['kv_cache']"]
    assert rollout.generate([(5, 6)], SAMPLING, seed=0)[0][0].version == 1


def test_the_trainer_keeps_its_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        rollout = engine()
        rollout.load(tiny_model(head_dim=32).named_parameters(), version=0)
        rollout.generate([(5, 6)], SAMPLING, seed=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_answer_does_not_depend_on_who_is_served_beside_it():
    rollout = engine()
    rollout.load(tiny_model(head_dim=32).named_parameters(), version=0)
    both = rollout.generate([(5, 6), (7, 8)], SAMPLING, seed=3)
    assert rollout.generate([(5, 6)], SAMPLING, seed=3)[0] == both[0]
    assert both[0] != both[1]
    assert both[0][0] != both[0][1]


@pytest.fixture(scope="module")
def embedded():
    """The embedded model twice: in transformers, and in vLLM."""
    need("vllm")
    from grpo.rollout.vllm import VllmRollout
    from launch.builders.models import load_model

    need_embedded()
    folder, llm = embedded_llm()
    model = load_model(folder, device="cpu")
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return model, VllmRollout(llm, shapes=shapes, decode=str, eos_ids=(2,))


@torch.no_grad()
def test_the_embedded_model_agrees_after_its_weights_have_changed(embedded):
    """Tied head, 135 million weights, each a fiftieth larger. Measured: 1.5e-5 nats, and 2.9e-2 with the old head."""
    model, rollout = embedded
    for parameter in model.parameters():
        parameter.mul_(1.02)
    rollout.load(model.named_parameters(), version=1)
    prompts = [tuple(range(100, 220)), tuple(range(900, 940))]
    written = rollout.generate(prompts, Sampling(group_size=4, max_tokens=16), seed=0)
    groups = [
        Group(example=example(p), prompt_ids=prompts[p], completions=tuple(group)) for p, group in enumerate(written)
    ]
    batch = collate(groups, torch.ones(8))
    logp_BC, _ = completion_logprobs(model, batch, layout="shared")
    assert batch.learn_BC.sum() > 50
    assert float((logp_BC - batch.sampler_logp_BC)[batch.learn_BC].abs().mean()) < 1e-4


def memory(field):
    """Bytes of this process, from the kernel: VmRSS now, VmHWM at most since it was last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of one moment")
def test_new_weights_need_less_room_than_twice_the_largest(embedded):
    model, rollout = embedded
    largest = max(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    rollout.load(model.named_parameters(), version=2)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    rollout.load(model.named_parameters(), version=3)
    assert largest == 49152 * 576 * 4
    assert memory("VmHWM") - before < 2 * largest


def train_command(tmp_path, *arguments):
    command = [sys.executable, "launch/train.py", "configs/stage1.toml", "configs/models/tiny.toml"]
    command += [f"--run.folder={tmp_path}", "--run.name=v", "--rollout.engine=vllm", *arguments]
    command += ["--policy.dtype=float32"]  # also where bfloat16 is fast
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_run_with_vllm_from_the_command_line(tmp_path):
    done = train_command(tmp_path, "--rollout.cpu_kv_cache_gib=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rollouts     vllm: as the recipe asks" in done.stdout
    metrics = [json.loads(line) for line in (tmp_path / "v" / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 3
    assert max(row.get("policy/mismatch", 0.0) for row in metrics) < 1e-4
    assert "(MainProcess pid" not in done.stdout + done.stderr  # what each line of vLLM's own log begins with


def test_a_cache_too_small_for_one_prompt_is_refused_before_vllm_starts(tmp_path):
    done = train_command(tmp_path, "--rollout.cpu_kv_cache_gib=0.0005", "--sft.steps=0")
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert "cpu_kv_cache_gib = 0.0005 leaves vLLM a cache of 524 tokens, and one completion may take 4,096" in line
    # 16,777 tokens: a group is 4 x 4,096 = 16,384
    assert "; nearest that fits: rollout.cpu_kv_cache_gib = 0.02 (" in line
    assert not (tmp_path / "v").exists()
