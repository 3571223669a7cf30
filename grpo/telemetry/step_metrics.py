"""The metrics of one step, while the step lasts. Names are `area/what`: reward/total, time/rollout, policy/mismatch."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from grpo.advantages import has_signal, total_rewards
from grpo.batch import Batch
from grpo.telemetry.throughput import TokenCounts, batch_counts
from grpo.types import Group

PhaseHook = Callable[[str], AbstractContextManager[Any]]
"""A context that is entered with a phase's name for as long as the phase lasts."""


class StepMetrics:
    """The metrics of one step, and the groups and updates that they are of."""

    def __init__(self, step: int, phase_hook: PhaseHook = nullcontext) -> None:
        self.step, self._phase_hook = step, phase_hook
        self.values: dict[str, float] = {}
        self.groups: list[Group] = []
        self.trained = TokenCounts()
        self._updates: list[Mapping[str, float]] = []

    def scalars(self, area: str, values: Mapping[str, float]) -> None:
        self.values |= {f"{area}/{name}": float(value) for name, value in values.items()}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of this phase to time/PHASE."""
        started = time.perf_counter()
        with self._phase_hook(phase):
            yield
        name = f"time/{phase}"
        self.values[name] = self.values.get(name, 0.0) + time.perf_counter() - started

    def add_update(self, batch: Batch, stats: Mapping[str, float]) -> None:
        """Add an update of this rank's policy on this batch. policy/... are means over the step's updates."""
        self.trained += batch_counts(batch)
        self._updates.append(stats)
        names = dict.fromkeys(name for update in self._updates for name in update)
        self.scalars("policy", {name: mean([u[name] for u in self._updates if name in u]) for name in names})

    def add_groups(self, groups: Sequence[Group]) -> None:
        """Add scored groups: rewards by part, spread, lengths, truncation and counts."""
        self.groups = list(groups)
        scores = [score for group in groups for score in group.scores]
        parts = sorted({name for score in scores for name in score.parts})
        self.scalars("reward", {"total": mean([score.total for score in scores])})
        self.scalars("reward", {name: mean([s.parts[name] for s in scores if name in s.parts]) for name in parts})
        rewards_PG = total_rewards(groups)
        zero_variance = [not signal for signal in has_signal(rewards_PG).tolist()]
        spread = {"zero_variance": sum(zero_variance), "zero_variance_share": mean(zero_variance)}
        self.scalars("group", {**spread, "std": float(rewards_PG.std(1).mean())})
        completions = [completion for group in groups for completion in group.completions]
        lengths = [len(completion.token_ids) for completion in completions]
        truncated = mean([completion.finish == "length" for completion in completions])
        self.scalars("completion", {"tokens_mean": mean(lengths), "tokens_max": max(lengths), "truncated": truncated})
        repeated = sum(len(group.prompt_ids) * len(group.completions) for group in groups)
        counts = {
            "completions": len(completions),
            "completion_tokens": sum(lengths),
            "prompt_tokens": sum(len(group.prompt_ids) for group in groups),
            "equivalent_tokens": repeated + sum(lengths),
        }
        self.scalars("count", counts)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
