"""What a run leaves behind: a console that is never silent, metrics.jsonl, rollouts.jsonl, and wandb where it is on.

Metric names are `area/what`: reward/total, group/std, policy/mismatch, time/rollout, perf/mfu, memory/peak_gb.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from grpo.data.example import Example
from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.telemetry.speed import phases, speeds, usage
from grpo.telemetry.step_metrics import Around, StepMetrics
from grpo.telemetry.wandb_logger import WandbLogger
from grpo.types import Completion, Group

if TYPE_CHECKING:  # torch takes seconds to load, and what only prints needs none
    from grpo.telemetry.throughput import ThroughputMeter


class RunLogger:
    """One run's folder, console and wandb run."""

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
        around: Around = nullcontext,
        meter: "ThroughputMeter | None" = None,
    ) -> None:
        """One rank of a run `writes`; the others keep the same records and leave nothing. A run that goes on has the
        `wandb_id` that it had; every phase of a step is entered through `around`. `meter` follows the policy's model;
        without one nothing is said of how its updates use the machine."""
        self._folder, self._steps, self.console, self._every = folder, steps, console, rollouts_every
        self._writes, self._around, self._meter = writes, around, meter
        about: dict[str, Any] = {"name": name, "project": project, "settings": settings, "run_id": wandb_id}
        self._tracker = WandbLogger(folder, **about, tell=console.line) if writes else None
        self._started, self._first = 0.0, -1
        self._record = StepMetrics(-1)  # of the step under way

    @property
    def wandb_id(self) -> str:
        """Of the run at wandb; empty where there is none."""
        return self._tracker.run_id if self._tracker else ""

    @contextmanager
    def step(self, step: int) -> Iterator[StepMetrics]:
        self._record = record = StepMetrics(step, self._around)
        if self._first < 0:
            self._started, self._first = time.perf_counter(), step
        with record.timed("step"):
            yield record
        seconds = record.values["time/step"]
        record.values["count/tokens_per_s"] = record.values.get("count/completion_tokens", 0.0) / max(seconds, 1e-9)
        record.values["memory/peak_gb"] = peak_gb()
        record.values |= speeds(record.values)
        if self._meter is not None:
            record.values |= self._meter.read(record.trained, record.values.get("time/update", 0.0))
        self._append("metrics.jsonl", [{"step": step, **record.values}])
        if step % self._every == 0:
            self._append("rollouts.jsonl", transcript(step, record.groups_seen))
        if self._tracker:
            self._tracker.metrics(step, record.values)
        self.console.line(self._summary(record))

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Something that lasts within a phase of a step, or between two steps, and is no part of the step's times."""
        return self._around(name)

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """A result that belongs to no step, such as a held-out table: one line of notes.jsonl, and wandb's summary."""
        self._append("notes.jsonl", [{"note": name, **value}])
        if self._tracker:
            self._tracker.result(name, value)

    def answers(self, moment: str, rows: Sequence[tuple[Example, Completion, Any]]) -> None:
        """Graded held-out answers, one line each in held_out.jsonl; the grade is a dataclass."""
        self._append(
            "held_out.jsonl",
            [
                {
                    "moment": moment,
                    "id": example.id,
                    "question": example.question,
                    "text": completion.text,
                    **asdict(graded),
                }
                for example, completion, graded in rows
            ],
        )

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def close(self, *, failed: bool = False) -> None:
        """The run is over; whether it went well is told to wandb."""
        if self._tracker:
            self._tracker.finish(failed=failed)

    def _summary(self, record: StepMetrics) -> str:
        values = record.values
        done = record.step - self._first + 1
        left = (time.perf_counter() - self._started) / done * (self._steps - record.step - 1)
        shown = [f"step {record.step + 1}/{self._steps}"]
        if "reward/total" in values:
            parts = [
                f"{n.split('/')[1]} {v:.2f}"
                for n, v in values.items()
                if n.startswith("reward/") and n != "reward/total"
            ]
            shown.append(f"reward {values['reward/total']:.3f} ({', '.join(parts)})")
        if "group/zero_variance_share" in values:
            shown.append(f"zero variance {100 * values['group/zero_variance_share']:.0f} %")
        if "policy/nll" in values:
            shown.append(f"nll {values['policy/nll']:.3f}")
        shown += [*usage(values), phases(values), f"{values['memory/peak_gb']:.1f} GB"]
        return " | ".join([*shown, f"left {_clock(left)}"])

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows and self._writes:
            with (self._folder / name).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def transcript(step: int, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row per completion, readable without this project."""
    return [
        {
            "step": step,
            "id": group.example.id,
            "question": group.example.question,
            "answerable": group.example.answerable,
            "text": completion.text,
            "tokens": len(completion.token_ids),
            "finish": completion.finish,
            "version": completion.version,
            "reward": score.total,
            **{f"reward/{name}": value for name, value in score.parts.items()},
        }
        for group in groups
        for completion, score in zip(group.completions, group.scores, strict=True)
    ]


def refuse_existing(folder: Path) -> None:
    """UserError where something is already there, with the next free name. Nothing is overwritten; an empty folder,
    which is what a kill at the very beginning leaves, is nothing."""
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        free = next(
            f"{folder.name}-{n}" for n in range(2, 10_000) if not folder.with_name(f"{folder.name}-{n}").exists()
        )
        raise UserError(
            f"{folder}: this run exists and is not overwritten; a free name: --run.name={free} (make: NAME={free})"
        )


def make_run_folder(folder: Path) -> Path:
    """A new folder that is its owner's alone, or UserError as `refuse_existing`."""
    refuse_existing(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:  # it is empty, or another run of this name has begun just now
        refuse_existing(folder)
        folder.chmod(0o700)
    return folder


def peak_gb() -> float:
    """The largest resident memory of this process so far, in GB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
