"""GRPO on a random tiny model whose reward is the share of low bytes: a whole loop in seconds, and with checkpoints."""

import json

import torch

from curriculum.samplers import EpochSampler
from grpo.checkpointing import store
from grpo.checkpointing.manager import CheckpointManager
from grpo.collect import Collector
from grpo.distributed.communicator import Communicator
from grpo.loop import Callbacks, LoopConfig, train
from grpo.model.policy_model import PolicyModel
from grpo.policy.engine import Policy
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import TorchBackend, torch_policy
from grpo.rollout.hf import HfRollout
from grpo.settings import CheckpointConfig, LossConfig
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger
from grpo.types import SamplingConfig, Score
from launch.runs.resume import LogFiles
from tests.helpers.toy import EOS, ByteTokenizer, example, per_group, tiny_model


def low_bytes(example, completions):
    """Reward: the share of bytes below 32, stop token included; 1/8 for a model that knows nothing."""
    shares = [sum(token < 32 for token in c.token_ids) / len(c.token_ids) for c in completions]
    return [Score(total=share, parts={"low_bytes": share}) for share in shares]


def hf_rollout(engine=HfRollout, *, tied=True):
    return engine(tiny_model(seed=9, tied=tied), decode=ByteTokenizer().decode, eos_ids=(EOS,))


def six_questions(seed=0):
    return EpochSampler([example(i) for i in range(6)], seed=seed)


def collector(policy, rollout, curriculum, score, *, prompt="Q{}:", seed=0, **sampling):
    """What samples for the toy; `prompt` has a place for the example's id."""
    return Collector(
        policy=policy,
        rollout=rollout,
        curriculum=curriculum,
        score=per_group(score),
        render=lambda e: tuple(prompt.format(e.id).encode()),
        comm=Communicator(),
        sampling=SamplingConfig(**sampling),
        seed=seed,
    )


def run_log(folder, steps, console):
    return RunLogger(folder, name="toy", steps=steps, console=console, project="test", settings={})


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
    """Train `model`, or the tiny one, on the low bytes."""
    folder.mkdir()
    optim = AdamWConfig(lr=lr, warmup_ratio=0.0, schedule="constant")
    policy_model = PolicyModel(model or tiny_model(), reference=tiny_model() if kl else None)
    backend = TorchBackend(policy_model, optim, dtype="float32")
    policy = CountingPolicy(backend, total_updates=steps * updates, token_budget=512)
    loss = LossConfig(aggregation="token", kl_coef=kl, updates_per_step=updates)
    cfg = LoopConfig(steps=steps, loss=loss, max_tokens=8, max_logprob_gap=limit, seed=seed)
    sampling = {"prompts_per_step": 4, "group_size": 8, "max_tokens": 8, "dynamic": dynamic}
    source = collector(
        policy, rollout or hf_rollout(), six_questions(seed), score, prompt=prompt, seed=seed, **sampling
    )
    log = run_log(folder, steps, Console())
    train(cfg, collector=source, policy=policy, comm=Communicator(), log=log, callbacks=callbacks)
    return policy, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flat_weights(policy):
    return torch.cat([tensor.flatten().clone() for _, tensor in policy.export_weights()])


class Ends(EndsWhen):
    """Callbacks of a loop: these two, and checkpoints."""

    def __init__(self, watch, gate, checkpoints):
        super().__init__(gate)
        self.on_step, self.checkpoints = watch, checkpoints

    def on_step_end(self, done, values):
        over = super().on_step_end(done, values)
        self.checkpoints.on_step_end(done)
        return over


class ToyRun:
    """A run of the toy in this process: its policy, its checkpoints and what was said."""

    def __init__(self, folder, *, steps=4, about="these", reserve=0, comm=None, **settings):
        folder.mkdir(exist_ok=True)
        self.said = []
        console = Console()
        console.line = self.said.append
        self.steps = steps
        optim = AdamWConfig(lr=1e-2, schedule="constant")
        self.policy = torch_policy(tiny_model(), optim=optim, total_updates=4, token_budget=512, dtype="float32")
        self.curriculum, self.log = six_questions(), run_log(folder, steps, console)
        logs = LogFiles(folder, self.log)
        self.checkpoints = CheckpointManager(
            folder=folder / "checkpoints",
            settings=CheckpointConfig(**settings),
            steps=steps,
            policy=self.policy,
            shared={"curriculum": self.curriculum, "logs": logs},
            own={},
            about={"the questions": about},
            comm=comm or Communicator(),
            console=console,
            reserve=reserve,
            before_commit=logs.fsync,
        )

    def train(self, start=0, engine=HfRollout, score=low_bytes, watch=lambda *_: {}, gate=lambda _: False):
        sampling = {"prompts_per_step": 2, "group_size": 4, "max_tokens": 4}
        source = collector(self.policy, hf_rollout(engine), self.curriculum, score, **sampling)
        cfg = LoopConfig(steps=self.steps, max_tokens=4, loss=LossConfig())
        how = {"policy": self.policy, "comm": Communicator(), "log": self.log, "start": start}
        with self.checkpoints.guard():
            train(cfg, collector=source, callbacks=Ends(watch, gate, self.checkpoints), **how)
        return flat_weights(self.policy)

    @property
    def there(self):
        return [step for step, _ in reversed(store.list_checkpoints(self.checkpoints.folder))]
