"""A run of the toy in this process, with checkpoints."""

import torch

from curriculum.samplers import EpochSampler
from grpo.checkpointing import store
from grpo.checkpointing.manager import CheckpointManager
from grpo.collect import Collector
from grpo.distributed.communicator import Communicator
from grpo.loop import LoopConfig, train
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.rollout.hf import HfRollout
from grpo.settings import CheckpointConfig, LossConfig
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger
from grpo.types import SamplingConfig
from launch.runs.resume import LogFiles
from tests.helpers.toy import EOS, ByteTokenizer, example, per_group, tiny_model
from tests.helpers.toy_training import low_bytes


class Ends:
    """Callbacks of a loop: these two, and checkpoints."""

    def __init__(self, watch, gate, checkpoints):
        self.on_step, self.gate, self.checkpoints = watch, gate, checkpoints

    def on_step_end(self, done, values):
        over = self.gate(values)
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
        self.policy = torch_policy(
            tiny_model(),
            optim=AdamWConfig(lr=1e-2, schedule="constant"),
            total_updates=4,
            token_budget=512,
            dtype="float32",
        )
        self.curriculum = EpochSampler([example(i) for i in range(6)], seed=0)
        self.log = RunLogger(folder, name="toy", steps=steps, console=console, project="test", settings={})
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
        collector = Collector(
            policy=self.policy,
            rollout=engine(tiny_model(seed=9), decode=ByteTokenizer().decode, eos_ids=(EOS,)),
            curriculum=self.curriculum,
            score=per_group(score),
            render=lambda e: tuple(f"Q{e.id}:".encode()),
            comm=Communicator(),
            sampling=SamplingConfig(prompts_per_step=2, group_size=4, max_tokens=4),
        )
        cfg = LoopConfig(steps=self.steps, max_tokens=4, loss=LossConfig())
        how = {"policy": self.policy, "comm": Communicator(), "log": self.log, "start": start}
        with self.checkpoints.guard():
            train(cfg, collector=collector, callbacks=Ends(watch, gate, self.checkpoints), **how)
        return torch.cat([tensor.flatten().clone() for _, tensor in self.policy.export_weights()])

    @property
    def there(self):
        return [step for step, _ in reversed(store.list_checkpoints(self.checkpoints.folder))]
