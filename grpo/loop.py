"""GRPO, in the order of the paper: ask, sample a group, score it, compare within it, step.

From Shao et al. (2024): the group baseline, the clipped ratio, the optional KL to a reference. Left out: the critic.
With one update per rollout, the default, the old policy is the current policy and costs no forward pass.

P prompts, G completions per prompt, B = P*G rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from grpo.advantages import advantages
from grpo.batch import collate
from grpo.collect import Collector, check_same_policy, select_for_update, with_logprob_gap
from grpo.distributed.communicator import Communicator
from grpo.distributed.load_balancing import own_share
from grpo.losses import make_loss, with_token_weights
from grpo.rollout.base import derive_seed
from grpo.settings import LossConfig
from grpo.telemetry.run_logger import RunLogger
from grpo.types import Group

if TYPE_CHECKING:  # the engine loads transformers
    from grpo.policy.engine import Policy


class Callbacks:
    """What else happens at the end of a step, of GRPO and of supervised training alike: here nothing."""

    def on_step(self, step: int, groups: Sequence[Group], values: Mapping[str, float]) -> Mapping[str, float]:
        """Return more metrics, named area/what, of a step with these metrics; supervised steps have no `groups`."""
        return {}

    def on_step_end(self, done: int, values: Mapping[str, float]) -> bool:
        """Save what a resume needs after `done` steps. Return whether training ends here, the same on every rank.

        Raises Stopped where the run was asked to end.
        """
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """The settings of the loop, which are those of several sections of a recipe."""

    steps: int
    loss: LossConfig
    max_tokens: int  # of a completion, for the aggregation "constant"
    max_logprob_gap: float = 0.05  # nats per token: mean |trainer - sampler| above this stops the run
    reward_weights: Mapping[str, float] = field(default_factory=dict)  # of reward parts, for the advantage "per_reward"
    seed: int = 0


def train(
    cfg: LoopConfig,
    *,
    collector: Collector,
    policy: "Policy",
    comm: Communicator,
    log: RunLogger,
    callbacks: Callbacks | None = None,
    start: int = 0,
) -> None:
    """Run GRPO from step `start` to `cfg.steps`, or until the callbacks end it.

    A step depends on the recipe, the seed and its number alone: with all arguments as they were at `start`, the steps
    are those of a run that never stopped. Raises StaleWeights where the sampler does not run the policy's weights.
    """
    callbacks = callbacks or Callbacks()
    loss, updates, needs_reference = make_loss(cfg.loss), cfg.loss.updates_per_step, cfg.loss.kl_coef > 0
    for step in range(start, cfg.steps):
        with log.step(step) as metrics:
            # 1-3. Ask, sample a group per prompt from the policy as it is now (pi_old), score each group.
            groups = collector.collect(step, metrics)
            metrics.add_groups(groups)

            # 4. Compare within the group. Every rank then takes its share.
            selected = select_for_update(groups, collector.sampling, at_least=updates * comm.world)
            advantages_PG = advantages(selected, mode=cfg.loss.advantage, weights=cfg.reward_weights)
            batch = collate(*own_share(selected, advantages_PG, comm, drop_zero=not needs_reference))

            # 5. Step uphill inside the trust region, once per minibatch.
            check = partial(check_same_policy, limit=cfg.max_logprob_gap, step=step)
            with metrics.timed("update"):
                batch = batch.with_fixed_logprobs(policy.logprobs, old=updates > 1, reference=needs_reference)
                for minibatch in batch.minibatches(updates, seed=derive_seed(cfg.seed, step)):
                    weighted = with_token_weights(minibatch, cfg.loss, max_tokens=cfg.max_tokens, total=comm.sum)
                    stats = policy.update(weighted, loss, before_step=check)
                    metrics.add_update(weighted, with_logprob_gap(stats, minibatch, policy, comm, check=check))

            # 6. Evaluate: the field's numbers on these answers and, at times, on held-out questions.
            with metrics.timed("watch"):
                metrics.values.update(callbacks.on_step(step, groups, metrics.values))

        # 7. Save, or end the stage.
        if callbacks.on_step_end(step + 1, metrics.values):
            return
