"""The log of a run: console lines, metrics.jsonl, rollouts.jsonl, notes.jsonl, held_out.jsonl, and wandb."""

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from grpo.data.example import Example
from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.telemetry.step_metrics import PhaseHook, StepMetrics
from grpo.telemetry.throughput import ThroughputMeter, token_rates
from grpo.telemetry.wandb_logger import WandbLogger
from grpo.types import Completion, Group


class RunLogger:
    """One run's log. Use as a context manager; the other ranks keep the same metrics and write nothing."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        steps: int,
        console: Console,
        project: str,
        settings: Mapping[str, Any],
        rollouts_every: int = 1,
        writes: bool = True,
        wandb_id: str = "",
        phase_hook: PhaseHook = nullcontext,
        meter: ThroughputMeter | None = None,
    ) -> None:
        """A resumed run has the `wandb_id` that it had. Every phase of a step is entered through `phase_hook`. `meter`
        is attached to the policy's model; without a meter there are no perf/ metrics of the update."""
        self._folder, self._steps, self.console, self._every = folder, steps, console, rollouts_every
        self._writes, self._phase_hook, self._meter = writes, phase_hook, meter
        about: dict[str, Any] = {"name": name, "project": project, "settings": settings, "run_id": wandb_id}
        self._wandb = WandbLogger(folder, **about, tell=console.line) if writes else None
        self._started, self._first = 0.0, -1

    @property
    def wandb_id(self) -> str:
        """The id of the wandb run; empty where there is none."""
        return self._wandb.run_id if self._wandb else ""

    @contextmanager
    def step(self, step: int) -> Iterator[StepMetrics]:
        """Log a step when the context ends without an error."""
        metrics = StepMetrics(step, self._phase_hook)
        if self._first < 0:
            self._started, self._first = time.perf_counter(), step
        with metrics.timed("step"):
            yield metrics
        values = metrics.values
        values["count/tokens_per_s"] = values.get("count/completion_tokens", 0.0) / max(values["time/step"], 1e-9)
        values["memory/peak_gb"] = peak_gb()
        values |= token_rates(values)
        if self._meter is not None:
            values |= self._meter.measure(metrics.trained, values.get("time/update", 0.0))
        self._append("metrics.jsonl", [{"step": step, **values}])
        if step % self._every == 0:
            self._append("rollouts.jsonl", rollout_rows(step, metrics.groups))
        if self._wandb:
            self._wandb.log_metrics(step, values)
        left = (time.perf_counter() - self._started) / (step - self._first + 1) * (self._steps - step - 1)
        self.console.line(f"step {step + 1}/{self._steps} | {summary(values)} | left {_clock(left)}")

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Enter a phase outside a step, or within a phase of a step, whose seconds are not metrics."""
        return self._phase_hook(name)

    def log_result(self, name: str, value: Mapping[str, Any]) -> None:
        """Log a result of no step, such as a held-out table: one line of notes.jsonl, and wandb's summary."""
        self._append("notes.jsonl", [{"note": name, **value}])
        if self._wandb:
            self._wandb.log_result(name, value)

    def log_predictions(self, moment: str, rows: Sequence[tuple[Example, Completion, Any]]) -> None:
        """Log graded held-out answers, one line each in held_out.jsonl; a grade is a dataclass."""
        about = [
            {"moment": moment, "id": example.id, "question": example.question, "text": completion.text, **asdict(grade)}
            for example, completion, grade in rows
        ]
        self._append("held_out.jsonl", about)

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def close(self, *, failed: bool = False) -> None:
        """End the log, and tell wandb whether the run failed."""
        if self._wandb:
            self._wandb.finish(failed=failed)

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows and self._writes:
            with (self._folder / name).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def rollout_rows(step: int, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return one row of rollouts.jsonl per completion."""
    return [
        {
            "step": step,
            "id": group.example.id,
            "question": group.example.question,
            "answerable": group.example.answerable,
            **({"extra": group.example.extra} if group.example.extra else {}),
            "text": completion.text,
            "tokens": len(completion.token_ids),
            "finish": completion.finish,
            "version": completion.version,
            "reward": score.total,
            **{f"reward/{name}": value for name, value in score.parts.items()},
            **score.details,
        }
        for group in groups
        for completion, score in zip(group.completions, group.scores, strict=True)
    ]


def summary(values: Mapping[str, float]) -> str:
    """Return the console line of a step with these metrics.

    >>> summary({"policy/nll": 2.5, "count/tokens_per_s": 9.6, "perf/mfu": 0.412, "time/step": 14.04,
    ...          "time/score": 0.01, "time/update": 6.0, "memory/peak_gb": 1.5})
    'nll 2.500 | 10 tok/s | mfu 41 % | 14.0 s (update 6.0) | 1.5 GB'
    """
    shown: list[str] = []
    if "reward/total" in values:
        parts = {name.removeprefix("reward/"): v for name, v in values.items() if name.startswith("reward/")}
        each = ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if name != "total")
        shown.append(f"reward {parts['total']:.3f} ({each})")
    if "group/zero_variance_share" in values:
        shown.append(f"zero variance {100 * values['group/zero_variance_share']:.0f} %")
    if "policy/nll" in values:
        shown.append(f"nll {values['policy/nll']:.3f}")
    if "perf/tokens_per_second" in values:
        repeated = f"{values['perf/equivalent_per_second']:,.0f} with repeated prompts"
        shown.append(f"{values['perf/tokens_per_second']:.0f} tok/s ({repeated})")
    else:
        shown.append(f"{values['count/tokens_per_s']:.0f} tok/s")
    if "perf/mfu" in values:
        shown.append(f"mfu {100 * values['perf/mfu']:.0f} %")
    if "perf/sharing" in values:
        shown.append(f"shared {values['perf/sharing']:.1f}x")
        shown.append(f"padding {100 * values['perf/padding']:.0f} %")
    step = values["time/step"]
    phases = {name.removeprefix("time/"): v for name, v in values.items() if name.startswith("time/")}
    each = ", ".join(f"{name} {v:.1f}" for name, v in phases.items() if name != "step" and v >= step / 100)
    shown += [f"{step:.1f} s" + (f" ({each})" if each else ""), f"{values['memory/peak_gb']:.1f} GB"]
    return " | ".join(shown)


def require_new_folder(folder: Path) -> None:
    """Refuse a folder with something in it, and name the next free one: nothing is overwritten. UserError."""
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        names = (f"{folder.name}-{number}" for number in range(2, 10_000))
        free = next(name for name in names if not folder.with_name(name).exists())
        raise UserError(
            f"{folder}: this run exists and is not overwritten; a free name: --run.name={free} (make: NAME={free})"
        )


def peak_gb() -> float:
    """Return the largest resident memory of this process so far, in GB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
