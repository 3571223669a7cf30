"""A checkpoint that is on its way to the disk when a rank fails is there afterwards."""

import threading
import time
from dataclasses import fields

import pytest

from grpo.checkpointing import store
from grpo.checkpointing import writer as writing
from grpo.checkpointing.manager import CheckpointManager
from grpo.distributed import failure_detection as ranks
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.optimizer_state import OptimizerSnapshot
from grpo.policy.torch_backend import torch_policy
from grpo.settings import CheckpointConfig
from grpo.telemetry.console import Console
from tests.helpers.many_ranks import run_ranks
from tests.helpers.toy import tiny_model


class Slow(OptimizerSnapshot):
    """Takes longer to write than another rank's failure to reach this one."""

    def contents(self, name):
        if name == self.files(lead=False)[0]:
            time.sleep(5.0)
        return super().contents(name)


def share(policy, rank, kind):
    """The part of the policy's state that one of two ranks holds."""
    found = policy.snapshot_state()
    mine = {number: tensors for number, tensors in found.tensors.items() if number % 2 == rank}
    return kind(**{**{f.name: getattr(found, f.name) for f in fields(found)}, "tensors": mine})


def one_ends(comm, folder, failing, how):
    """The rank `failing` does, right after the first step; the other one is not through with writing then."""
    ranks.FAILURE_GRACE, writing.OTHER_RANKS_TIMEOUT = 1.0, 600.0
    policy = torch_policy(tiny_model(), optim=AdamWConfig(lr=1e-2), total_updates=4, token_budget=512, dtype="float32")
    held = share(policy, comm.rank, OptimizerSnapshot if comm.rank == failing else Slow)
    policy.snapshot_state = lambda buffers=None: held
    about = {"policy": policy, "shared": {}, "own": {}, "about": {}, "comm": comm, "console": Console()}
    checkpoints = CheckpointManager(folder=folder, settings=CheckpointConfig(every=1), steps=4, **about)
    with checkpoints.guard():
        checkpoints.on_step_end(1)
        if comm.rank == failing and how == "raises":
            raise ValueError("this rank's own")
        if comm.rank == failing:  # the watchdog's thread; the main one hangs
            threading.Thread(target=checkpoints.on_hang, args=("score lasts 999 s",)).start()
            time.sleep(600)
        comm.barrier()


@pytest.mark.parametrize(("failing", "how"), [(1, "raises"), (0, "raises"), (1, "hangs")])
def test_a_checkpoint_is_finished_before_a_rank_that_fails_ends_all(tmp_path, failing, how):
    ran = run_ranks(one_ends, tmp_path, failing, how)
    assert ran[failing].code == 124 if how == "hangs" else "this rank's own" in str(ran[failing].value)
    found = store.latest_valid(tmp_path)
    assert found is not None, ran
    assert (found.step, found.ranks) == (1, 2)
