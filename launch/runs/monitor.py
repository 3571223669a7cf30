"""Monitoring of a training run: metrics of rollouts, held-out questions, the best model so far, alarms, stage end."""

import math
import shutil
from collections.abc import Mapping, Sequence
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
from grpo.checkpointing.store import disk_shortage, latest_step
from grpo.errors import UserError
from grpo.loop import Callbacks
from grpo.types import Example, Group
from launch.builders.rollout import model_bytes
from launch.config.recipe import HeldOutConfig
from launch.runs.resume import checkpoints_of
from launch.runs.run import Engines, Run
from rewards.judges.base import pop_metrics
from rewards.scorer import RewardScorer, merge_metrics
from rewards.zero_variance import count_causes

SHOWN = (*LABEL_METRICS, *TRUST_METRICS)


@dataclass(frozen=True)
class HeldOutEvaluator:
    """Measures the policy as it is on the held-out questions; without any, a measurement is empty."""

    run: Run
    examples: Sequence[Example]
    engines: Engines
    score: OnlineTrustScore

    def measure(self, moment: str, *, version: int) -> dict[str, float]:
        """Answer greedily, grade and score; the numbers go into the log and are returned, in percent."""
        rollout = self.engines.rollout
        if not self.examples or rollout is None:
            return {}
        recipe, comm, console = self.run.recipe, self.run.comm, self.run.console
        console.line(f"{moment:12} {len(self.examples)} held-out questions, greedy")
        with self.run.log.phase("held_out"):  # a phase of its own, so that steps that measure do not look slow
            rollout.load(self.engines.policy.export_weights(), version=version)
            graded = evaluate(
                rollout,
                comm.shard(self.examples, even=False),
                self.engines.codec.render,
                max_tokens=recipe.sampling.max_tokens,
                reasoning=recipe.model.reasoning,
                refusals=recipe.model.refusals,
                version=version,
            )
            rollout.release()
            graded = comm.gather(graded)
            answers = [(example, completion) for example, completion, _ in graded]
            numbers = summarize([grade for *_, grade in graded]) | comm.on_rank0(lambda: self.score(answers))
        self.run.log.log_result(f"held_out/{moment}", numbers)
        self.run.log.log_predictions(moment, graded)
        shown = [f"{METRICS[name].label} {numbers[name]:.1f}" for name in SHOWN if name in numbers]
        console.line(f"{'':12} " + "; ".join(shown))
        return numbers


def check_best_by(config: HeldOutConfig, held_out: Sequence[Example]) -> None:
    """UserError where the held-out questions cannot give the number by which the best model is chosen."""
    wanted, every = config.best_by, config.every
    if not every or not wanted:
        return
    if not held_out:
        raise UserError(
            f"held_out.every = {every} measures held-out questions, and there are none; valid: held_out.every = 0"
        )
    labelled = any(example.answerable for example in held_out)
    open_book = any(example.style != "closed" for example in held_out)
    measured = {"auto": labelled or open_book, "grounded": labelled, "right": labelled}
    if not measured.get(wanted, open_book):
        valid = "'grounded', 'right' or ''" if labelled else "a number of the Trust-Score or ''"
        raise UserError(f"held_out.best_by = {wanted!r} is not a number of these held-out questions; valid: {valid}")


def best_metric(best_by: str, measured: Mapping[str, float]) -> str:
    """The metric by which the best model is chosen; "auto" is Trust-Score, or right answers of closed-book questions.

    >>> best_metric("auto", {"right": 40.0}), best_metric("auto", {"right": 40.0, "trust_score": 51.0})
    ('right', 'trust_score')
    """
    if best_by != "auto":
        return best_by
    return "trust_score" if "trust_score" in measured else "right"


class TrainingMonitor(Callbacks):
    """The callbacks of a training loop: what is measured, kept, saved and decided at the end of a step.

    A part of every checkpoint. `scorer` is None in supervised training, whose steps have no rollouts.
    """

    def __init__(
        self,
        run: Run,
        engines: Engines,
        held_out: HeldOutEvaluator | None,
        *,
        stage_end: StageEnd | None = None,
        scorer: RewardScorer | None = None,
    ) -> None:
        self.before: dict[str, float] = {}  # held-out numbers of the model that training started from
        self.after: dict[str, float] = {}  # and of the trained one
        self._run, self._engines, self._held_out, self._scorer = run, engines, held_out, scorer
        self._stage_end, self._alarms = stage_end, Alarms()
        self._best: tuple[float, int] | None = None  # its number, and the steps after which it was reached

    def on_train_begin(self) -> None:
        """Measure the model that training starts from."""
        self.before = self._measure("before", 0)

    def on_step(self, step: int, groups: Sequence[Group], values: Mapping[str, float]) -> dict[str, float]:
        """More metrics of the step: those of its rollouts, and held-out numbers every `held_out.every` steps."""
        settings, done = self._run.recipe.held_out, step + 1
        comm = self._run.comm
        rewards = merge_metrics(comm.gather([self._scorer.pop_metrics()])) if self._scorer else {}
        metrics = comm.on_rank0(lambda: self._rollout_metrics(step, groups, values, rewards))
        if settings.every and done % settings.every == 0:
            measured = self._measure(f"step {done}", done)
            metrics |= {f"held_out/{name}": value for name, value in measured.items()}
            if settings.best_by and measured:
                best_by = best_metric(settings.best_by, measured)
                self._keep_best(done, best_by, measured[best_by])
        return metrics

    def _measure(self, moment: str, version: int) -> dict[str, float]:
        return self._held_out.measure(moment, version=version) if self._held_out else {}

    def on_step_end(self, done: int, values: Mapping[str, float]) -> bool:
        """Save a checkpoint where one is due; whether the stage ends. Raises Stopped where the run was asked to end."""
        stage_end = self._stage_end
        stop = stage_end is not None and self._run.comm.on_rank0(lambda: stage_end(values))
        if stage_end is not None and stop:
            self._run.log.log_result("gate", {"opened": stage_end.reason})
            self._run.console.line(f"gate         open: {stage_end.reason}; the stage ends here")
        self._run.checkpoints.on_step_end(done)
        return stop

    def _rollout_metrics(
        self, step: int, groups: Sequence[Group], values: Mapping[str, float], rewards: Mapping[str, float]
    ) -> dict[str, float]:
        """Metrics of all ranks' rollouts with those of their `rewards`, and alarms; on rank 0, whose judge counts its
        own calls."""
        self._remove_replaced()
        metrics = dict(rewards)
        if self._scorer is not None and self._held_out is not None:
            answers = [(group.example, completion) for group in groups for completion in group.completions]
            model = self._run.recipe.model
            form = {"reasoning": model.reasoning, "refusals": model.refusals}
            metrics |= {f"trust/{name}": value for name, value in self._held_out.score(answers).items()}
            metrics |= {f"factuality/{name}": v for name, v in factuality_metrics(groups, **form).items()}
            signal = has_signal(total_rewards(groups)).tolist()
            dead = [group for group, found in zip(groups, signal, strict=True) if not found]
            causes = count_causes(dead, **form)
            metrics |= {f"group/{name}": value for name, value in causes.items()}
            metrics |= {f"judge/{name}": value for name, value in pop_metrics(self._scorer.judge).items()}
        for alarm in self._alarms.check({**values, **metrics}):
            self._run.console.line(f"ALARM step {step + 1}: {alarm}")
            self._run.log.log_result("alarm", {"step": step, "text": alarm})
        return metrics

    def _keep_best(self, done: int, best_by: str, value: float) -> None:
        """Write a new best model; the old one is removed once no checkpoint can lead back to it."""
        if self._best and value <= self._best[0]:
            return
        run, engines, path = self._run, self._engines, self._model(done)
        reason = run.comm.on_rank0(lambda: disk_shortage(run.folder, model_bytes(engines.base), reserve=RESERVE))
        if reason:
            run.console.line(f"no room      for {path}: {reason}; the run continues without it")
            return
        with run.log.phase("save"):
            codec = engines.codec
            save_model_folder(engines.policy, codec.tokenizer, path, run.comm, stop_ids=codec.stop_ids)
        self._best = (value, done)
        run.log.log_result("best", {"step": done - 1, best_by: value, "model": path.name})
        run.console.line(f"best so far  {path} ({best_by} {value:.2f})")
        run.comm.on_rank0(self._remove_replaced)

    def on_train_end(self, steps: int) -> None:
        """Measure the trained model, and remove all models that were the best once, but for the best."""
        self.after = self._measure("after", steps)
        self._run.comm.on_rank0(self._remove_others)

    def print_table(self) -> None:
        """Print the held-out numbers before and after training side by side, in percent, on rank 0."""
        if not self.before or self._held_out is None or self._run.comm.rank != 0:
            return
        rows = [["", "before", "after", "change"]]
        for name in (name for name in SHOWN if name in self.before):
            before, after = self.before[name], self.after[name]
            rows.append([METRICS[name].label, f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"])
        title = f"{self._run.folder.name}: {len(self._held_out.examples)} held-out questions, percent"
        Terminal().print(terminal_table(title, rows))

    def _remove_replaced(self) -> None:
        """Without checkpoints on the way, the run cannot go back to an older best model."""
        run = self._run
        resumable = latest_step(checkpoints_of(run.folder)) if run.recipe.checkpoint.every else math.inf
        if self._best and resumable >= self._best[1]:
            self._remove_others()

    def _remove_others(self) -> None:
        kept = self._model(self._best[1]) if self._best else None
        for path in self._run.folder.glob("best-step-*"):
            if path != kept:
                shutil.rmtree(path)

    def _model(self, done: int) -> Path:
        return self._run.folder / f"best-step-{done}"  # steps done; metrics.jsonl counts from 0

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON takes it."""
        return {"before": dict(self.before), "best": self._best, "alarms": self._alarms.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there; the best models of steps that will be made again are removed."""
        self.before = dict(state["before"])
        self._best = None if state["best"] is None else (state["best"][0], state["best"][1])
        if self._best and not self._model(self._best[1]).exists():
            self._run.console.line(f"             {self._model(self._best[1])} is gone; the best is chosen anew")
            self._best = None
        self._alarms.load_state_dict(state["alarms"])
        self._run.comm.on_rank0(self._remove_others)
