"""GRPO, in the order in which the paper states it: ask, sample a group, score it, compare within it, step.

Kept from Shao et al. (2024): the group baseline, the clipped ratio, the optional KL to a reference. Left out: the
critic. One update per rollout is the default; the old policy is then the current one and costs no forward pass.
Everything heavy arrives as an argument: this file owns the order of events and nothing else.

P prompts on this rank, G completions per prompt, B = P*G rows, C completion positions.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from grpo.advantages import Mode, alive, filled, gdpo_advantages, group_advantages
from grpo.batch import Batch, collate
from grpo.data.example import Example
from grpo.distributed.communicator import Comm
from grpo.distributed.load_balancing import balanced
from grpo.dynamic_sampling import Dynamic, taught, to_ask
from grpo.errors import StaleWeights
from grpo.losses import Aggregation, Objective, Stats, average_stats, grpo_loss, weigh
from grpo.policy.base import PolicyEngine
from grpo.rollout.base import RolloutEngine, sample_groups
from grpo.telemetry.run_logger import RunLog
from grpo.types import Group, PromptRenderer, Sampling, Scorer


class Curriculum(Protocol):
    """What to ask next."""

    def next_batch(self, count: int) -> list[Example]:
        """The next questions, the same on every rank."""
        ...

    def observe(self, groups: list[Group]) -> None:
        """Learn from how they went."""
        ...


Watch = Callable[[int, list[Group], Mapping[str, float]], Mapping[str, float]]
"""Looks on at the end of a step: (step, its groups, its metrics so far) -> more metrics, named area/what."""


Save = Callable[[int], None]
"""Called with the number of steps done, after each: keeps what a run needs to go on from there, as often as it is
wanted. Raises Stopped where the run is to end here."""


def unsaved(done: int) -> None:
    """Nothing is kept."""


def unwatched(step: int, groups: list[Group], values: Mapping[str, float]) -> Mapping[str, float]:
    """Nobody looks on."""
    return {}


Gate = Callable[[Mapping[str, float]], bool]
"""Whether the stage is over after a step with these metrics, before its last step; the same on every rank."""


def closed(values: Mapping[str, float]) -> bool:
    """The stage lasts until its last step."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """The numbers of the loop itself."""

    steps: int
    prompts_per_step: int  # over all ranks
    sampling: Sampling
    objective: Objective
    aggregation: Aggregation = "sequence"
    advantage: Mode | Literal["per_reward"] = "std"
    weights: Mapping[str, float] = field(default_factory=dict)  # of reward parts, for "per_reward"; 1 where not named
    dynamic: Dynamic = field(default_factory=Dynamic)
    updates_per_step: int = 1
    seed: int = 0
    max_logprob_gap: float = 0.05  # nats: mean |trainer - sampler| above this stops the run

    @property
    def dead_are_free(self) -> bool:
        """Whether groups that scored all alike are left out of updates; part by part they may differ all the same."""
        return self.objective.kl_coef == 0 and self.advantage != "per_reward"


def train(
    cfg: LoopSettings,
    *,
    policy: PolicyEngine,
    rollout: RolloutEngine,
    curriculum: Curriculum,
    score: Scorer,
    render: PromptRenderer,
    comm: Comm,
    log: RunLog,
    watch: Watch = unwatched,
    gate: Gate = closed,
    save: Save = unsaved,
    start: int = 0,
) -> None:
    """Run GRPO from step `start` to `cfg.steps`, or until the gate opens. Raises StaleWeights when sampler and trainer
    are not the same policy.

    What a step samples depends on the recipe, the seed and the step's number alone: with everything that was handed in
    as it was at `start`, the steps are those of a run that never stopped.
    """
    loss = partial(grpo_loss, objective=cfg.objective)
    for step in range(start, cfg.steps):
        with log.step(step) as record:
            with record.timed("sync"):
                rollout.load(policy.export_weights(), version=step)
            everyones: list[Group] = []
            while count := to_ask(everyones, cfg.dynamic, count=cfg.prompts_per_step, world=comm.world):
                # 1. Ask. Every rank draws the same questions and keeps its own share of them.
                examples = comm.shard(curriculum.next_batch(count))

                # 2. Sample a group per prompt from the policy as it stands now: this is pi_old.
                with record.timed("rollout"):
                    seed = cfg.seed * 1_000_003 + step * comm.world + comm.rank + len(everyones) * 1_000_000_007
                    groups = sample_groups(rollout, examples, render, cfg.sampling, seed=seed, version=step)

                # 3. Score each group against its example.
                with record.timed("score"):
                    groups = [replace(g, scores=tuple(own)) for g, own in zip(groups, score(groups), strict=True)]
                everyones += comm.gather(groups)
            rollout.release()
            curriculum.observe(everyones)
            record.groups(everyones)

            # 4. Compare within the group. A group that scored all alike teaches nothing.
            shares = {"count": cfg.prompts_per_step, "parts": cfg.updates_per_step, "world": comm.world}
            groups = own_share(taught(everyones, cfg.dynamic, **shares), comm, dead_are_free=cfg.dead_are_free)
            advantages_PG = compare(groups, everyones, cfg, comm)
            record.scalars("group", spread(total_rewards(everyones)))

            # 5. Step uphill inside the trust region, once per part of the batch.
            with record.timed("update"):
                batch = with_fixed_logprobs(collate(groups, advantages_PG), cfg, policy)
                updates = []
                for part in parts(batch, cfg.updates_per_step, seed=cfg.seed + step):
                    trained = weighed(part, cfg, comm)
                    record.trains(trained)
                    updates.append(compared(policy.update(trained, loss), part, policy, comm))
                    check_same_policy(updates[-1], limit=cfg.max_logprob_gap, step=step)
                record.scalars("policy", average_stats(updates))

            # 6. Look on: the field's numbers on these answers and, now and then, on held-out questions.
            with record.timed("watch"):
                record.values.update(watch(step, everyones, record.values))
        over = gate(record.values)

        # 7. Keep what was reached, also of a stage that is over: from here the run can go on.
        save(step + 1)
        if over:
            return


def total_rewards(groups: Sequence[Group]) -> Tensor:
    """What every completion earned, float64 [P, G]."""
    return torch.tensor([[score.total for score in group.scores] for group in groups], dtype=torch.float64)


def compare(groups: Sequence[Group], everyones: Sequence[Group], cfg: LoopSettings, comm: Comm) -> Tensor:
    """The advantage of every completion of this rank's groups, float32 [P, G]: by its total, or part by part (GDPO)."""
    if cfg.advantage != "per_reward":
        return group_advantages(total_rewards(groups), mode=cfg.advantage)
    names = sorted({name for group in everyones for score in group.scores for name in score.parts})
    parts_KPG = torch.tensor(
        [[[score.parts.get(name, math.nan) for score in group.scores] for group in groups] for name in names],
        dtype=torch.float64,
    )
    weights_K = torch.tensor([cfg.weights.get(name, 1.0) for name in names], dtype=torch.float64)
    return gdpo_advantages(filled(parts_KPG), weights_K, total=comm.sum)


def spread(rewards_PG: Tensor) -> Stats:
    """How many groups scored all alike, and how far apart a group's scores are."""
    dead_P = ~alive(rewards_PG)
    return {
        "dead": float(dead_P.sum()),
        "dead_share": float(dead_P.double().mean()),
        "std": float(rewards_PG.std(1).mean()),
    }


def own_share(groups: list[Group], comm: Comm, *, dead_are_free: bool = False) -> list[Group]:
    """The groups that this rank learns from, whoever sampled them: about as many model tokens as any other rank's.

    `groups` are the same on all ranks. With `dead_are_free` those that scored all alike cost nothing, being left out.
    """
    costs = [len(g.prompt_ids) + sum(len(c.token_ids) - 1 for c in g.completions) for g in groups]
    if dead_are_free:
        costs = [cost if lives else 1 for cost, lives in zip(costs, alive(total_rewards(groups)).tolist(), strict=True)]
    return [groups[place] for place in balanced(costs, comm.world)[comm.rank]]


def with_fixed_logprobs(batch: Batch, cfg: LoopSettings, policy: PolicyEngine) -> Batch:
    """The batch with what stays fixed during its updates: pi_old where there are several, the reference where paid.

    With kl = 0 rows of advantage 0 are never updated on (`weigh`), so pi_old is not computed for them; it is 0 there.
    """
    if cfg.updates_per_step > 1:
        rows = torch.arange(len(batch.group_B)) if cfg.objective.kl_coef else torch.nonzero(batch.advantage_B).flatten()
        old_BC = policy.logprobs(batch.rows(rows.tolist()))
        old_logp_BC = torch.zeros(batch.ids_BC.shape)
        old_logp_BC[rows, : old_BC.shape[1]] = old_BC
        batch = replace(batch, old_logp_BC=old_logp_BC)
    if cfg.objective.kl_coef:
        batch = replace(batch, ref_logp_BC=policy.logprobs(batch, reference=True))
    return batch


def weighed(batch: Batch, cfg: LoopSettings, comm: Comm) -> Batch:
    """The batch with its weights, from counts over all ranks; with kl = 0, without the rows that teach nothing."""
    tokens, sequences = comm.sum([int(batch.learn_BC.sum()), len(batch.group_B)])
    return weigh(
        batch,
        aggregation=cfg.aggregation,
        max_tokens=cfg.sampling.max_tokens,
        tokens=int(tokens),
        sequences=int(sequences),
        drop_dead=cfg.objective.kl_coef == 0,
    )


def parts(batch: Batch, count: int, *, seed: int) -> Iterator[Batch]:
    """The batch itself, or its groups shuffled into `count` parts of nearly equal size."""
    if count == 1:
        yield batch
        return
    order = list(range(len(batch.prompts)))
    random.Random(seed).shuffle(order)
    for start in range(count):
        chosen = set(order[start::count])
        yield batch.rows([b for b, group in enumerate(batch.group_B.tolist()) if group in chosen])


def compared(stats: Stats, batch: Batch, policy: PolicyEngine, comm: Comm) -> Stats:
    """The statistics of an update; of one with dead groups alone, which runs no model, with how far sampler and trainer
    are apart on one group of each rank. Of several updates of a rollout each has pi_old, which the policy has left."""
    if not stats.keys() <= {"lr", "skipped"} or batch.old_logp_BC is not None:
        return stats
    first = batch.rows([b for b, group in enumerate(batch.group_B.tolist()) if group == 0])
    apart_BC = (policy.logprobs(first) - first.sampler_logp_BC).abs() * first.learn_BC
    total, tokens = comm.sum([float(apart_BC.sum()), float(first.learn_BC.sum())])
    return stats | {"mismatch": total / max(tokens, 1.0)}


def check_same_policy(stats: Stats, *, limit: float, step: int) -> None:
    """Stop when the log-probabilities of trainer and sampler are further apart than rounding explains."""
    mismatch = stats.get("mismatch", 0.0)
    if not mismatch <= limit:
        raise StaleWeights(
            f"step {step}: sampler and trainer differ by {mismatch:.3g} nats per token on average (limit {limit:.3g}); "
            "the rollout engine is not running the trainer's weights"
        )


def warm_up(
    *,
    steps: int,
    examples_per_step: int,
    policy: PolicyEngine,
    curriculum: Curriculum,
    gold: Callable[[Example], Group],
    loss: Any,
    comm: Comm,
    log: RunLog,
) -> None:
    """Supervised steps on gold answers through the same engine: logp * weight goes up, averaged over tokens."""
    for step in range(steps):
        with log.step(step) as record:
            groups = own_share([gold(example) for example in curriculum.next_batch(examples_per_step)], comm)
            batch = collate(groups, torch.ones(len(groups), 1))
            tokens, sequences = comm.sum([int(batch.learn_BC.sum()), len(groups)])
            weights = {"tokens": int(tokens), "sequences": int(sequences), "max_tokens": 1}
            batch = weigh(batch, aggregation="token", drop_dead=False, **weights)
            record.trains(batch)
            with record.timed("update"):
                record.scalars("policy", policy.update(batch, loss))
            record.scalars("count", {"completion_tokens": tokens})
