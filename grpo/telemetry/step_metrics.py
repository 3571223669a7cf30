"""What is known about one step: its line in metrics.jsonl, while the step lasts."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from grpo.advantages import has_signal, total_rewards
from grpo.telemetry.flops import Work, batch_work
from grpo.types import Group

if TYPE_CHECKING:  # torch takes seconds to load, and what only counts needs none
    from grpo.batch import Batch

Around = Callable[[str], AbstractContextManager[Any]]
"""Entered with a phase's name for as long as it lasts."""


class StepMetrics:
    """What is known about one step; written when the step ends."""

    def __init__(self, step: int, around: Around = nullcontext) -> None:
        self.step, self._around = step, around
        self.values: dict[str, float] = {}
        self.groups_seen: list[Group] = []
        self.trained = Work()
        self._updates: list[Mapping[str, float]] = []
        self._open: dict[str, float] = {}  # the phases that last, and since when

    def scalars(self, area: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.values[f"{area}/{name}"] = float(value)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Seconds of this phase, added up over the step, as time/<phase>."""
        name = f"time/{phase}"
        self._open[name] = time.perf_counter()
        with self._around(phase):
            yield
        self.add(name, time.perf_counter() - self._open.pop(name))

    def add(self, name: str, value: float) -> None:
        """To what there is of this name."""
        self.values[name] = self.values.get(name, 0.0) + value

    def times(self) -> dict[str, float]:
        """The seconds so far, by name; those of the phases that last included."""
        now = time.perf_counter()
        past = {name: value for name, value in self.values.items() if name.startswith("time/")}
        return past | {name: past.get(name, 0.0) + now - since for name, since in self._open.items()}

    def add_update(self, batch: "Batch", stats: Mapping[str, float]) -> None:
        """Add an update of this rank's policy on this batch; of several updates the means are kept, as policy/..."""
        self.trained += batch_work(batch)
        self._updates.append(stats)
        for name in dict.fromkeys(name for each in self._updates for name in each):
            self.values[f"policy/{name}"] = mean([each[name] for each in self._updates if name in each])

    def add_groups(self, groups: Sequence[Group]) -> None:
        """Rewards by part, spread, lengths and truncation of scored groups, which are also the step's transcript."""
        self.groups_seen = list(groups)
        scores = [score for group in groups for score in group.scores]
        completions = [completion for group in groups for completion in group.completions]
        parts: dict[str, list[float]] = {}
        for score in scores:
            for name, value in score.parts.items():
                parts.setdefault(name, []).append(value)
        self.scalars("reward", {"total": mean([score.total for score in scores])})
        self.scalars("reward", {name: mean(values) for name, values in sorted(parts.items())})
        rewards_PG = total_rewards(groups)
        zero_variance = [not found for found in has_signal(rewards_PG).tolist()]
        self.scalars("group", {"zero_variance": sum(zero_variance), "zero_variance_share": mean(zero_variance)})
        self.scalars("group", {"std": float(rewards_PG.std(1).mean())})
        lengths = [len(completion.token_ids) for completion in completions]
        self.scalars("completion", {"tokens_mean": mean(lengths), "tokens_max": max(lengths)})
        self.scalars("completion", {"truncated": mean([completion.finish == "length" for completion in completions])})
        self.scalars("count", {"completions": len(completions), "completion_tokens": sum(lengths)})
        self.scalars("count", {"prompt_tokens": sum(len(group.prompt_ids) for group in groups)})
        repeated = sum(len(group.prompt_ids) * len(group.completions) for group in groups)
        self.scalars("count", {"equivalent_tokens": repeated + sum(lengths)})


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
