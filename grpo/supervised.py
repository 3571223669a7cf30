"""Supervised training: one loop for SFT on gold answers, and for any loss on batches that are given."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from grpo.batch import Batch, collate
from grpo.distributed.communicator import Communicator
from grpo.distributed.load_balancing import own_share
from grpo.loop import Callbacks
from grpo.losses import Loss, with_token_weights
from grpo.settings import LossConfig
from grpo.telemetry.run_logger import RunLogger
from grpo.types import Group

if TYPE_CHECKING:  # the engine loads transformers
    from grpo.policy.engine import Policy

TOKEN_MEAN = LossConfig(aggregation="token")


def fit(
    batches: Callable[[int], Batch],
    *,
    steps: int,
    policy: "Policy",
    loss: Loss,
    comm: Communicator,
    log: RunLogger,
    callbacks: Callbacks | None = None,
    start: int = 0,
) -> None:
    """Take a step on each of `batches(start)` to `batches(steps - 1)`, averaged over the tokens of all ranks.

    `batches` returns this rank's rows of a step. Raises Stopped where the callbacks do.
    """
    callbacks = callbacks or Callbacks()
    for step in range(start, steps):
        with log.step(step) as metrics:
            batch = batches(step)
            with metrics.timed("update"):
                batch = with_token_weights(batch, TOKEN_MEAN, total=comm.sum)
                metrics.add_update(batch, policy.update(batch, loss))
            metrics.scalars("count", {"completion_tokens": comm.sum([int(batch.learn_BC.sum())])[0]})
            with metrics.timed("watch"):
                metrics.values.update(callbacks.on_step(step, [], metrics.values))
        if callbacks.on_step_end(step + 1, metrics.values):
            return


def sft_batch(groups: Sequence[Group], comm: Communicator) -> Batch:
    """Return this rank's share of groups with one gold completion each, which are the same on all ranks."""
    return collate(*own_share(groups, torch.ones(len(groups), 1), comm))
