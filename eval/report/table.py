"""Metrics and how they are shown: one registry, one table for the terminal and for Markdown, and one plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Metric:
    """A number in percent: `Metric("trust_score", "Trust-Score", better="higher")`."""

    name: str
    label: str
    better: Literal["higher", "lower", "neither"] = "higher"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("grounded", "right answer with the right citation"),
        Metric("right", "right answer"),
        Metric("refused_answerable", "refused though answerable", "lower"),
        Metric("refused_unanswerable", "refused, unanswerable"),
        Metric("well_formed", "well formed"),
        Metric("trust_score", "Trust-Score"),
        Metric("f1_gr", "F1_GR, grounded refusals"),
        Metric("f1_ac", "F1_AC, answer correctness"),
        Metric("f1_gc", "F1_GC, grounded citations"),
        Metric("citation_recall", "citation recall"),
        Metric("citation_precision", "citation precision"),
        Metric("answered_ratio", "AR, answered", "neither"),
        Metric("over_refusal", "refused though answerable", "lower"),
        Metric("over_answer", "answered though unanswerable", "lower"),
        Metric("align", "%Align, reasoning entails the answer"),
        Metric("correct", "correct"),
        Metric("not_attempted", "not attempted", "neither"),
        Metric("wrong", "wrong", "lower"),
        Metric("correct_given_attempted", "correct of attempted"),
        Metric("unanswerable_not_attempted", "not attempted, unanswerable"),
        Metric("all_correct", "All Correct"),
        Metric("partial_correct", "Partial Correct"),
        Metric("partial_not_attempted", "Partial NotAttempt", "neither"),
        Metric("all_not_attempted", "All NotAttempt", "neither"),
        Metric("all_wrong", "All Attempt and Wrong", "lower"),
    )
}

LABEL_METRICS = ("grounded", "right", "refused_answerable", "refused_unanswerable", "well_formed")
TRUST_METRICS = ("trust_score", "f1_gr", "f1_ac", "f1_gc", "answered_ratio", "align")
FACTUALITY_METRICS = ("correct", "not_attempted", "wrong", "correct_given_attempted", "unanswerable_not_attempted")
BUCKETS = ("all_correct", "partial_correct", "partial_not_attempted", "all_not_attempted", "all_wrong")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One model, arm or prompt of a report: values and 95 % intervals in percent, and the values of single seeds."""

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seeds: Sequence[Mapping[str, float]] = ()
    questions: int = 0

    def cell(self, name: str) -> str:
        """`55.4 [52.1, 58.0]`, `55.4` without an interval, or a dash without a value."""
        if name not in self.values:
            return "–"
        low_high = self.intervals.get(name)
        return f"{self.values[name]:.1f}" + (f" [{low_high[0]:.1f}, {low_high[1]:.1f}]" if low_high else "")


def metric_rows(columns: Mapping[str, Column], names: Sequence[str]) -> list[list[str]]:
    """A header, and a row for each named metric that a column has; with several seeds also their Trust-Scores."""
    rows = [["", *columns]]
    for name in names:
        if any(name in column.values for column in columns.values()):
            rows.append([METRICS[name].label, *(column.cell(name) for column in columns.values())])
    if any(len(column.seeds) > 1 for column in columns.values()):
        by_seed = [", ".join(f"{seed['trust_score']:.1f}" for seed in column.seeds) for column in columns.values()]
        rows.append(["Trust-Score by seed", *by_seed])
    return rows


def terminal_table(title: str, rows: Sequence[Sequence[str]]) -> Table:
    """A table of `rows`, the header first; all columns but the first are right-aligned."""
    table = Table(title=escape(title), title_justify="left")
    for number, column in enumerate(rows[0]):
        table.add_column(escape(column), justify="right" if number else "left")
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    return table


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"| --- |{' ---: |' * (len(rows[0]) - 1)}", *lines[1:]]) + "\n"


def plot(title: str, columns: Mapping[str, Column], names: Sequence[str], path: Path) -> None:
    """Save a bar chart: a group of bars for each metric, its 95 % intervals, and each seed as a dot."""
    from matplotlib.figure import Figure  # pyplot would look for a window system

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(columns)
    for number, (label, column) in enumerate(columns.items()):
        places = np.arange(len(names)) + (number - (len(columns) - 1) / 2) * width
        values = np.array([column.values[name] for name in names])
        bounds = np.array([column.intervals[name] for name in names]).T
        axes.bar(places, values, width * 0.9, yerr=np.abs(bounds - values), capsize=3, label=label, alpha=0.75)
        for seed in column.seeds:
            axes.plot(places, [seed[name] for name in names], "k.", markersize=4)
    axes.set_xticks(range(len(names)), [METRICS[name].label.partition(",")[0] for name in names])
    axes.set_ylabel("percent, 95 % interval over questions; dots: seeds")
    axes.set_title(title)
    axes.legend()
    figure.savefig(path, dpi=150)
