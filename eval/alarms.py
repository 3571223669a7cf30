"""Alarms for known failures of training: rules over the metrics of the last steps, each with a line for the console.

A rule is reported when it becomes true, and again only after it was false. The signs are those of Ground-GRPO (AR 100 %
without the bad-citation penalty, figure 6; %Align, figure 5) and of "GRPO for Factuality" (drift to not attempting).
The thresholds are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

WINDOW = 5  # steps in a row
Steps = Sequence[Mapping[str, float]]
WATCHED = ("trust/answered_ratio", "trust/answerable", "trust/over_refusal", "trust/align", "reward/format")


def answers_everything(steps: Steps) -> str:
    """AR is 100 % over the window, though at least one question in twenty was unanswerable."""
    ratio, answerable = _last(steps, "trust/answered_ratio"), _last(steps, "trust/answerable")
    if not ratio or min(ratio) < 99.9 or _mean(answerable) > 95:
        return ""
    return f"AR is 100 % for {WINDOW} steps though {100 - _mean(answerable):.0f} % are unanswerable: nothing is refused"


def refuses_everything(steps: Steps) -> str:
    """AR is 0 % over the window, though some questions were answerable."""
    ratio, answerable = _last(steps, "trust/answered_ratio"), _last(steps, "trust/answerable")
    if not ratio or max(ratio) > 0.1 or not _mean(answerable):
        return ""
    return f"AR is 0 % for {WINDOW} steps: everything is refused"


def never_formatted(steps: Steps) -> str:
    """No completion of the window has the format, so that no other reward is paid."""
    formats = _last(steps, "reward/format")
    if not formats or max(formats) > 0:
        return ""
    return f"the format reward is 0 for {WINDOW} steps: no answer has the format, so nothing else is paid"


def refusals_flood(steps: Steps) -> str:
    """At least half of the answerable questions are refused, and 20 points more than in the first window."""
    now = _last(steps, "trust/over_refusal")
    first = [step["trust/over_refusal"] for step in steps if "trust/over_refusal" in step][:WINDOW]
    if not now or _mean(now) < 50 or _mean(now) < _mean(first) + 20:
        return ""
    return f"refusals flood: {_mean(now):.0f} % of the answerable questions, {_mean(first):.0f} % at the start"


def alignment_falls(steps: Steps) -> str:
    """%Align is 15 points below its best window so far."""
    now = _last(steps, "trust/align")
    if not now:
        return ""
    values = [step["trust/align"] for step in steps if "trust/align" in step]
    best = max(_mean(values[end - WINDOW : end]) for end in range(WINDOW, len(values) + 1))
    if _mean(now) > best - 15:
        return ""
    return f"%Align fell from {best:.0f} to {_mean(now):.0f}: the reasoning no longer leads to the answer"


RULES: tuple[Callable[[Steps], str], ...] = (
    answers_everything,
    refuses_everything,
    never_formatted,
    refusals_flood,
    alignment_falls,
)


class Alarms:
    """The recent steps of a run and the rules that are true at the moment."""

    def __init__(self) -> None:
        self._steps: list[Mapping[str, float]] = []
        self._active: set[Callable[[Steps], str]] = set()

    def check(self, values: Mapping[str, float]) -> list[str]:
        """Add a step's metrics (`area/name`) and return the texts of new alarms."""
        self._steps.append({name: values[name] for name in WATCHED if name in values})
        texts = {rule: rule(self._steps) for rule in RULES}
        new = [text for rule, text in texts.items() if text and rule not in self._active]
        self._active = {rule for rule, text in texts.items() if text}
        return new

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, in JSON types."""
        return {"steps": [dict(step) for step in self._steps], "active": sorted(rule.__name__ for rule in self._active)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = list(state["steps"])
        self._active = {rule for rule in RULES if rule.__name__ in state["active"]}


def _last(steps: Steps, name: str) -> list[float]:
    """The values of the last WINDOW steps, or [] where a step has none."""
    window = [step[name] for step in steps[-WINDOW:] if name in step]
    return window if len(window) == WINDOW else []


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
