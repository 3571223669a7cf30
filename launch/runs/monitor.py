"""Who looks on while a model trains: the field's numbers on its rollouts and on held-out questions, the best model so
far, and alarms."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal

from curriculum.stage_end import StageEnd
from eval.alarms import Alarms
from eval.factuality import factuality_metrics
from eval.label_metrics import evaluate, summarize
from eval.online_metrics import OnlineTrustScore
from eval.report.table import LABEL_METRICS, METRICS, TRUST_METRICS, terminal_table
from grpo.advantages import has_signal, total_rewards
from grpo.checkpointing.export import save_model_folder
from grpo.checkpointing.manager import RESERVE
from grpo.checkpointing.store import no_room
from grpo.data.example import Example
from grpo.distributed.communicator import Comm
from grpo.errors import UserError
from grpo.policy.base import PolicyEngine
from grpo.rollout.base import RolloutEngine
from grpo.telemetry.run_logger import RunLogger
from grpo.types import Group
from launch.builders.assemble import Speech
from launch.config.recipe import Recipe
from rewards.judges.base import pop_metrics
from rewards.scorer import RewardScorer
from rewards.zero_variance import count_causes

SHOWN = (*LABEL_METRICS, *TRUST_METRICS)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The held-out questions and all that it takes to answer them with the weights as they are."""

    recipe: Recipe
    examples: list[Example]
    policy: PolicyEngine
    rollout: RolloutEngine
    speech: Speech
    log: RunLogger
    comm: Comm
    live: OnlineTrustScore

    def measure(self, moment: str, *, version: int) -> dict[str, float]:
        """Greedy answers, graded from the labels and scored; into the log, and as the numbers of the table."""
        if not self.examples:
            return {}
        with self.log.phase("held_out"):  # a phase of its own: the steps that measure are not slower than the others
            return self._measure(moment, version)

    def _measure(self, moment: str, version: int) -> dict[str, float]:
        console = self.log.console
        console.line(f"{moment:12} {len(self.examples)} held-out questions, greedy")
        self.rollout.load(self.policy.export_weights(), version=version)
        graded = evaluate(
            self.rollout,
            self.comm.shard(self.examples, even=False),
            self.speech.render,
            max_tokens=self.recipe.sampling.max_tokens,
            reasoning=self.recipe.model.reasoning,
            version=version,
        )
        self.rollout.release()
        graded = self.comm.gather(graded)
        answers = [(example, completion) for example, completion, _ in graded]
        numbers = summarize([grade for *_, grade in graded]) | self.comm.lead(lambda: self.live(answers))
        self.log.note(f"held_out/{moment}", numbers)
        self.log.answers(moment, graded)
        shown = [f"{METRICS[name].label} {numbers[name]:.1f}" for name in SHOWN if name in numbers]
        console.line(f"{'':12} " + "; ".join(shown))
        return numbers


def check_best_by(recipe: Recipe, held_out: Sequence[Example]) -> None:
    """UserError where the held-out questions cannot give the number by which the best model is chosen."""
    wanted, every = recipe.held_out.best_by, recipe.held_out.every
    if not every or not wanted:
        return
    if not held_out:
        raise UserError(
            f"held_out.every = {every} measures held-out questions, and there are none; valid: held_out.every = 0"
        )
    labelled = any(example.answerable for example in held_out)
    open_book = any(example.style != "closed" for example in held_out)
    if not (labelled if wanted in ("grounded", "right") else open_book):
        valid = "'grounded', 'right' or ''" if labelled else "a number of the Trust-Score or ''"
        raise UserError(f"held_out.best_by = {wanted!r} is not a number of these held-out questions; valid: {valid}")


class Watcher:
    """What `grpo.loop.train` calls at the end of every step."""

    def __init__(
        self,
        held_out: HeldOut,
        folder: Path,
        *,
        every: int,
        best_by: str,
        score: RewardScorer,
        sealed: Callable[[], float],
    ) -> None:
        """`sealed` tells up to which step the run can be gone on with: a best model that is gone back to stays."""
        self.before: dict[str, float] = {}  # the held-out numbers of the model that training started from
        self._held_out, self._folder, self._every, self._best_by = held_out, folder, every, best_by
        self._score, self._sealed = score, sealed
        self._alarms = Alarms()
        self._best: tuple[float, int] | None = None  # its number, and the steps after which it was

    def begin(self) -> int:
        """Before the first step: measures where training starts from. Returns the number of steps done, 0."""
        self.before = self._held_out.measure("before", version=0)
        return 0

    def __call__(self, step: int, groups: list[Group], values: Mapping[str, float]) -> dict[str, float]:
        """More numbers for the step's record: trust/..., and held_out/... after every `every` steps."""
        numbers = self._held_out.comm.lead(lambda: self._look(step, groups, values))
        done = step + 1
        if self._every and done % self._every == 0:
            measured = self._held_out.measure(f"step {done}", version=done)
            numbers |= {f"held_out/{name}": value for name, value in measured.items()}
            if self._best_by and measured:
                self._keep_best(done, measured[self._best_by])
        return numbers

    def _look(self, step: int, groups: list[Group], values: Mapping[str, float]) -> dict[str, float]:
        """Scores of all ranks' rollouts, and alarms; by rank 0, whose scorer counts what it scored itself."""
        self._remove_replaced()
        answers = [(group.example, completion) for group in groups for completion in group.completions]
        numbers = {f"trust/{name}": value for name, value in self._held_out.live(answers).items()}
        reasoning = self._held_out.recipe.model.reasoning
        numbers |= {f"factuality/{name}": v for name, v in factuality_metrics(groups, reasoning=reasoning).items()}
        signal = has_signal(total_rewards(groups)).tolist()
        dead = [group for group, found in zip(groups, signal, strict=True) if not found]
        causes = count_causes(dead, reasoning=reasoning)
        numbers |= {f"group/{name}": value for name, value in causes.items()}
        numbers |= self._score.pop_metrics()
        numbers |= {f"judge/{name}": value for name, value in pop_metrics(self._score.judge).items()}
        for alarm in self._alarms.check({**values, **numbers}):
            self._held_out.log.console.line(f"ALARM step {step + 1}: {alarm}")
            self._held_out.log.note("alarm", {"step": step, "text": alarm})
        return numbers

    def _keep_best(self, done: int, value: float) -> None:
        """The new best model is written whole; the old one is removed when no checkpoint goes back to it."""
        if self._best and value <= self._best[0]:
            return
        path = self._model(done)
        needed = sum(tensor.nbytes for _, tensor in self._held_out.policy.export_weights())
        if reason := self._held_out.comm.lead(lambda: no_room(self._folder, needed, reserve=RESERVE)):
            self._held_out.log.console.line(f"no room      for {path}: {reason}; the run goes on without it")
            return
        with self._held_out.log.phase("save"):
            save_model_folder(self._held_out.policy, self._held_out.speech.tokenizer, path, self._held_out.comm)
        self._best = (value, done)
        self._held_out.log.note("best", {"step": done - 1, self._best_by: value, "model": path.name})
        self._held_out.log.console.line(f"best so far  {path} ({self._best_by} {value:.2f})")
        self._held_out.comm.lead(self._remove_replaced)

    def clear(self) -> None:
        """Remove all models that were the best once, but for the one that is."""
        self._held_out.comm.lead(self._remove_others)

    def _remove_replaced(self) -> None:
        if self._best and self._sealed() >= self._best[1]:
            self._remove_others()

    def _remove_others(self) -> None:
        kept = self._model(self._best[1]) if self._best else None
        for path in self._folder.glob("best-step-*"):
            if path != kept:
                shutil.rmtree(path)

    def _model(self, done: int) -> Path:
        return self._folder / f"best-step-{done}"  # after so many steps; metrics.jsonl counts from 0

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from, as JSON takes it."""
        return {"before": dict(self.before), "best": self._best, "alarms": self._alarms.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the best models of steps that will be made again are removed."""
        self.before = dict(state["before"])
        self._best = None if state["best"] is None else (state["best"][0], state["best"][1])
        if self._best and not self._model(self._best[1]).exists():
            self._held_out.log.console.line(
                f"             {self._model(self._best[1])} is gone; the best is chosen anew"
            )
            self._best = None
        self._alarms.load_state_dict(state["alarms"])
        self.clear()


def watched_gate(gate: StageEnd, log: RunLogger, comm: Comm) -> Callable[[Mapping[str, float]], bool]:
    """The stage's gate for `grpo.loop.train`: rank 0 decides for all, and what opened it is said and noted."""

    def over(values: Mapping[str, float]) -> bool:
        opened = comm.lead(lambda: gate(values))
        if opened:
            log.note("gate", {"opened": gate.reason})
            log.console.line(f"gate         open: {gate.reason}; the stage ends here")
        return opened

    return over


def show_table(before: Mapping[str, float], after: Mapping[str, float], *, title: str) -> None:
    """Both measurements side by side, in percent."""
    rows = [["", "before", "after", "change"]]
    for name in (name for name in SHOWN if name in before):
        change = after[name] - before[name]
        rows.append([METRICS[name].label, f"{before[name]:.1f}", f"{after[name]:.1f}", f"{change:+.1f}"])
    Terminal().print(terminal_table(title, rows))
