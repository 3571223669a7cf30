"""The end of a stage: after its last step, on a plateau of a metric, or by hand."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, FiniteFloat, model_validator

from grpo.config import Section
from grpo.errors import UserError

SHARES = ("trust", "factuality")
"""Areas whose metrics are missing in steps without a question of their kind: a share of no questions is undefined."""

AREAS = ("reward", "group", "completion", "policy", *SHARES, "held_out", "count", "judge", "reward_failures")
"""The areas of metrics that can be watched: all but times and memory, which differ by rank."""


class StageEndConfig(Section):
    """The [stage_end] of a stage: when the next one begins, where one run goes through several (`make train`)."""

    when: Literal["steps", "plateau", "hand"] = Field(
        default="steps",
        description="steps: after the stage's last step; plateau: as soon as the metric is flat, at the latest then; "
        "hand: never by itself",
    )
    metric: str = Field(default="reward/total", description="what a plateau is looked for in")
    window: int = Field(default=10, ge=1, description="measurements; two windows are compared")
    tolerance: FiniteFloat = Field(default=0.02, ge=0, description="in units of the metric")

    @model_validator(mode="after")
    def _names_an_area(self) -> "StageEndConfig":
        area, slash, name = self.metric.partition("/")
        if not slash or not name or area not in AREAS:
            raise ValueError(
                f"stage_end.metric = {self.metric!r} is never logged; valid: "
                f"{', '.join(f'{area}/...' for area in AREAS)}, such as reward/total"
            )
        return self

    @property
    def occasional(self) -> bool:
        """Whether the metric is of some steps only: held-out questions are measured every `held_out.every` steps."""
        return self.metric.startswith("held_out/")


def has_plateaued(values: Sequence[float], *, window: int, tolerance: float) -> bool:
    """Whether the mean of the last `window` values is within `tolerance` of the mean of the `window` before them.

    A steady climb of s a step moves that mean by s * window. A falling metric is no plateau either, nor is one with
    a value that is not finite.

    >>> has_plateaued([0.0, 1.0, 2.0, 2.0, 2.1, 1.9], window=2, tolerance=0.05)
    True
    >>> has_plateaued([0.0, 1.0, 2.0, 3.0], window=2, tolerance=0.05)
    False
    """
    if len(values) < 2 * window:
        return False
    last, before = values[-window:], values[-2 * window : -window]
    return abs(sum(last) - sum(before)) <= tolerance * window


class StageEnd:
    """Decides from the metrics of every step whether a stage ends before its last step."""

    def __init__(self, settings: StageEndConfig) -> None:
        self._settings = settings
        self._values: list[float] = []
        self._without = 0  # steps without the metric, since the start or the resume

    def __call__(self, values: Mapping[str, float]) -> bool:
        """Whether the stage is over, after a step with these metrics.

        UserError if the metric was missing where it is due: in the first step, in the first step that measures
        held-out questions, or for SHARES in a window of steps.
        """
        config = self._settings
        if config.when != "plateau":
            return False
        if config.metric in values:
            self._values.append(values[config.metric])
            return self.is_reached
        self._without += 1
        if not self._values and self._is_due(values):
            logged = [name for name in values if name.partition("/")[0] in AREAS]
            near = difflib.get_close_matches(config.metric, logged, n=3, cutoff=0.0)
            raise UserError(
                f"stage_end.metric = {config.metric!r} is not logged by this run; nearest: {', '.join(near)}"
            )
        return False

    def _is_due(self, values: Mapping[str, float]) -> bool:
        """Whether a metric that is ever logged would have been logged by now."""
        config = self._settings
        if config.occasional:
            return any(name.startswith("held_out/") for name in values)
        if config.metric.partition("/")[0] in SHARES:
            return self._without >= config.window
        return not values.get("policy/skipped")  # a skipped update has fewer metrics

    @property
    def is_reached(self) -> bool:
        """Whether the stage was over at the last measurement, also after a resume."""
        config = self._settings
        return config.when == "plateau" and has_plateaued(
            self._values, window=config.window, tolerance=config.tolerance
        )

    @property
    def reason(self) -> str:
        """Why the stage ended."""
        config = self._settings
        return f"{config.metric} flat within {config.tolerance:g} over two windows of {config.window}"

    def state_dict(self) -> dict[str, list[float]]:
        return {"values": list(self._values)}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self._values = list(state["values"])


def check_stage_end(settings: StageEndConfig, *, steps: int, every: int) -> None:
    """UserError if a stage of `steps` steps, with held-out questions every `every` steps (0: never), is too short to
    see a plateau."""
    if settings.when != "plateau":
        return
    if settings.occasional and not every:
        raise UserError(
            f"stage_end.metric = {settings.metric!r} is never logged: held_out.every = 0 measures no held-out question "
            "on the way; valid: held_out.every of 1 or more, or another metric"
        )
    seen = steps // every if settings.occasional else steps
    if 2 * settings.window > seen:
        valid = f"valid: stage_end.window of at most {seen // 2}" if seen > 1 else "valid: a longer stage"
        raise UserError(
            f"stage_end.window = {settings.window} compares two windows, {2 * settings.window} measurements, and this "
            f"stage makes {seen}; {valid}, or stage_end.when = 'steps'"
        )
