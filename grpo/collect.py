"""Collection of a step's scored groups: ask, sample, score, and ask again (dynamic sampling).

Dynamic sampling is that of DAPO (arXiv 2503.14476, section 3.2). A zero-variance group has advantage 0: `off` keeps the
group, with its tokens in the counts of the loss; `drop` leaves it out of both; `refill` asks further questions in its
place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from grpo.advantages import has_signal, total_rewards
from grpo.batch import Batch
from grpo.distributed.communicator import Communicator
from grpo.errors import StaleWeights
from grpo.losses import Stats, StatsCheck
from grpo.rollout.base import RolloutEngine, derive_seed, sample_groups
from grpo.telemetry.step_metrics import StepMetrics
from grpo.types import Curriculum, Group, PromptRenderer, SamplingConfig, Scorer

if TYPE_CHECKING:  # the engine loads transformers
    from grpo.policy.engine import Policy


@dataclass(kw_only=True)
class Collector:
    """The source of a step's groups, which it samples from the step's own weights."""

    policy: "Policy"
    rollout: RolloutEngine
    curriculum: Curriculum
    score: Scorer
    render: PromptRenderer
    comm: Communicator
    sampling: SamplingConfig
    seed: int = 0

    def collect(self, step: int, metrics: StepMetrics) -> list[Group]:
        """Return the step's scored groups of all ranks, the same list on every rank.

        Raises StaleWeights where the sampler answers with another version of the weights.
        """
        with metrics.timed("sync"):
            self.rollout.load(self.policy.export_weights(), version=step)
        groups: list[Group] = []
        world = self.comm.world
        while count := prompts_still_needed(groups, self.sampling, world=world):
            examples = self.comm.shard(self.curriculum.next_batch(count))
            with metrics.timed("rollout"):
                seed = derive_seed(self.seed, step, self.comm.rank, len(groups))
                own = sample_groups(self.rollout, examples, self.render, self.sampling, seed=seed, version=step)
            with metrics.timed("score"):
                scores = self.score(own)
                own = [replace(group, scores=tuple(of)) for group, of in zip(own, scores, strict=True)]
            groups += self.comm.gather(own)
        self.rollout.release()
        self.curriculum.observe(groups)
        return groups


def prompts_still_needed(groups: Sequence[Group], sampling: SamplingConfig, *, world: int = 1) -> int:
    """Return how many questions a step asks next over all ranks, given its scored groups so far; 0: enough.

    The first request is `prompts_per_step`. Under refill the next ones are the missing groups with a signal, up to
    `refill_cap`. The number is a multiple of `world`, as `prompts_per_step` is, and the same on every rank.
    """
    count = sampling.prompts_per_step
    if not groups:
        return count
    if sampling.dynamic != "refill":
        return 0
    missing = count - int(has_signal(total_rewards(groups)).sum())
    room = sampling.refill_cap * count - len(groups)
    return max(0, min(-(-missing // world), room // world)) * world


def select_for_update(groups: Sequence[Group], sampling: SamplingConfig, *, at_least: int = 1) -> list[Group]:
    """Return the groups of a step that the update learns from, in order, before ranks share them.

    off      all groups
    drop     groups with a signal; zero-variance groups make up for fewer than `at_least`
    refill   `prompts_per_step` groups: the first with a signal; zero-variance groups replace what the cap left missing
    """
    if sampling.dynamic == "off":
        return list(groups)
    signal = has_signal(total_rewards(groups)).tolist()
    kept = [place for place, found in enumerate(signal) if found][: sampling.prompts_per_step]
    size = sampling.prompts_per_step if sampling.dynamic == "refill" else max(at_least, len(kept))
    spare = [place for place, found in enumerate(signal) if not found][: size - len(kept)]
    return [groups[place] for place in sorted(kept + spare)]


def with_logprob_gap(stats: Stats, batch: Batch, policy: "Policy", comm: Communicator, *, check: StatsCheck) -> Stats:
    """Return the statistics of an update, with the sampler/trainer gap of an update that ran no model.

    The gap is then measured on one group of each rank and given to `check`, unless `batch` has old log-probabilities,
    which later updates of a step keep.
    """
    ran_no_model = stats.keys() <= {"lr", "skipped"}
    if not ran_no_model or batch.old_logp_BC is not None:
        return stats
    first = batch.rows(torch.nonzero(batch.group_B == 0).flatten().tolist())
    gap_BC = (policy.logprobs(first) - first.sampler_logp_BC).abs() * first.learn_BC
    total, tokens = comm.sum([float(gap_BC.sum()), float(first.learn_BC.sum())])
    stats = stats | {"mismatch": total / max(tokens, 1.0)}
    check(stats)
    return stats


def check_same_policy(stats: Stats, *, limit: float, step: int) -> None:
    """Raise StaleWeights if the log-probabilities of trainer and sampler are more than `limit` apart.

    In nats per token on average: more than rounding explains.
    """
    mismatch = stats.get("mismatch", 0.0)
    if not mismatch <= limit:
        raise StaleWeights(
            f"step {step}: sampler and trainer differ by {mismatch:.3g} nats per token on average (limit {limit:.3g}); "
            "the rollout engine does not run the trainer's weights"
        )
