"""What has the fault suite tried, and what did it cost? A table at the end of `make test-faults`, of the faults that
tests name by `fault(...)`."""

import os
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import pytest

HEAD = ("fault", "times tried", "runs lost", "steps lost at most", "seconds to recover (median)")


@pytest.fixture
def fault(record_property: Callable[[str, Any], None]) -> Callable[..., None]:
    """`fault("SIGTERM in a step")` names what a test is about to try, `fault(steps=2, seconds=0.7)` says what it cost:
    the steps to be made again, beside the one under way, and the seconds until the run trained again. `times`: the test
    tries it so often; `world`: with so many ranks."""

    def record(name: str = "", **about: Any) -> None:
        for key, value in {**({"fault": name} if name else {}), **about}.items():
            record_property(key, value)

    return record


def table(tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of markdown: a row for each fault, each number of ranks, and all of them. A test that failed has lost its run."""
    rows = [HEAD, ("---",) * len(HEAD)]
    groups = [("fault", each) for each in sorted({one["fault"] for one in tried})]
    groups += [("world", each) for each in sorted({one["world"] for one in tried if "world" in one})]
    for key, name in groups:
        rows.append(_row(name if key == "fault" else f"all with {name}", [o for o in tried if o.get(key) == name]))
    return [f"| {' | '.join(row)} |" for row in [*rows, _row("all", tried)]]


def _row(name: str, tried: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    steps = [one["steps"] for one in tried if "steps" in one]
    seconds = [one["seconds"] for one in tried if one.get("seconds") is not None]
    times, lost = sum(one.get("times", 1) for one in tried), sum(one["lost"] for one in tried)
    recovered = f"{median(seconds):.1f}" if seconds else "-"
    return name, str(times), str(lost), str(max(steps, default="-")), recovered


def pytest_terminal_summary(terminalreporter: Any) -> None:
    tried: list[dict[str, Any]] = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            about = dict(report.user_properties)
            if report.when == "call" and "fault" in about:
                tried.append({**about, "lost": outcome == "failed"})
    if "KILLS" in os.environ and tried:
        terminalreporter.section("faults")
        terminalreporter.write_line("\n".join(table(tried)))
