"""GRPO on a random tiny model whose reward is the share of low bytes: a whole loop in seconds."""

import json

import torch

from curriculum.samplers import EpochSampler
from grpo.collect import Collector
from grpo.distributed.communicator import Communicator
from grpo.loop import Callbacks, LoopConfig, train
from grpo.model.policy_model import PolicyModel
from grpo.policy.engine import Policy
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import TorchBackend
from grpo.rollout.hf import HfRollout
from grpo.settings import LossConfig
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger
from grpo.types import SamplingConfig, Score
from tests.helpers.toy import EOS, ByteTokenizer, example, per_group, tiny_model


def low_bytes(example, completions):
    """Reward: the share of bytes below 32, stop token included; 1/8 for a model that knows nothing."""
    shares = [sum(token < 32 for token in c.token_ids) / len(c.token_ids) for c in completions]
    return [Score(total=share, parts={"low_bytes": share}) for share in shares]


def hf_rollout(engine=HfRollout, *, tied=True):
    return engine(tiny_model(seed=9, tied=tied), decode=ByteTokenizer().decode, eos_ids=(EOS,))


class CountingPolicy(Policy):
    """A policy that remembers how many groups each update saw."""

    seen: list[int]

    def update(self, batch, loss, **more):
        self.seen = [*getattr(self, "seen", []), len(set(batch.group_B.tolist()))]
        return super().update(batch, loss, **more)


class EndsWhen(Callbacks):
    """Callbacks that end the training when `is_over(values)`."""

    def __init__(self, is_over):
        self.is_over = is_over

    def on_step_end(self, done, values):
        return self.is_over(values)


def run_toy(
    folder, *, steps, rollout=None, model=None, prompt="Q{}:", seed=0, updates=1, kl=0.0, lr=1e-2, score=low_bytes,
    dynamic="off", callbacks=None, limit=0.05,
):  # fmt: skip
    """Train `model`, or the tiny one, on the low bytes; `prompt` has a place for the example's id."""
    folder.mkdir()
    optim = AdamWConfig(lr=lr, warmup_ratio=0.0, schedule="constant")
    policy_model = PolicyModel(model or tiny_model(), reference=tiny_model() if kl else None)
    backend = TorchBackend(policy_model, optim, dtype="float32")
    policy = CountingPolicy(backend, total_updates=steps * updates, token_budget=512)
    loss = LossConfig(aggregation="token", kl_coef=kl, updates_per_step=updates)
    cfg = LoopConfig(steps=steps, loss=loss, max_tokens=8, max_logprob_gap=limit, seed=seed)
    collector = Collector(
        policy=policy,
        rollout=rollout or hf_rollout(),
        curriculum=EpochSampler([example(i) for i in range(6)], seed=seed),
        score=per_group(score),
        render=lambda e: tuple(prompt.format(e.id).encode()),
        comm=Communicator(),
        sampling=SamplingConfig(prompts_per_step=4, group_size=8, max_tokens=8, dynamic=dynamic),
        seed=seed,
    )
    log = RunLogger(folder, name="toy", steps=steps, console=Console(), project="test", settings={})
    train(cfg, collector=collector, policy=policy, comm=Communicator(), log=log, callbacks=callbacks)
    return policy, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flat_weights(policy):
    return torch.cat([tensor.flatten().clone() for _, tensor in policy.export_weights()])
