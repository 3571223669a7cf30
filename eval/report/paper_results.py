"""What did the paper measure? Its 201 rows of Trust-Scores, by model and data set, and as Markdown.

`python -m eval.report.paper_results > docs/paper-results.md` writes the tables. The numbers are those printed in
arXiv 2506.15522v1:
figures to one decimal, tables to two.
"""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from grpo.errors import UserError

PREFIX = "paper:"
FILE = Path(__file__).with_name("paper_results.json")
NUMBERS: Mapping[str, str] = {  # our name -> the paper's
    "answered_ratio": "AR",
    "f1_ac": "F1_AC",
    "f1_gr": "F1_GR",
    "f1_gc": "F1_GC",
    "trust_score": "TRUST",
    "align": "%Align",
}
INTRODUCTION = """\
Every row of numbers in *Lessons from Training Grounded LLMs with Verifiable Rewards* (arXiv 2506.15522v1), in percent.
AR is the share of questions that are answered, TRUST the mean of the three F1 scores. Figures are printed to one
decimal, tables to two. `python -m eval.compare RUN paper:Qwen3-8B/ASQA` puts a run beside them, and
`python -m eval.report.paper_results` writes this file from `eval/paper_results.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """One row: `PaperRow(source="Figure 2", model="Qwen3-8B", dataset="ASQA", config="Prompt (Reasoning)", ...)`."""

    source: str  # the figure or table it is printed in
    model: str
    dataset: str
    config: str
    numbers: Mapping[str, float]  # percent, by our names; "align" where it is printed

    @property
    def label(self) -> str:
        return f"{PREFIX}{self.model}/{self.dataset}/{self.config} ({self.source})"


@cache
def paper_rows() -> tuple[PaperRow, ...]:
    """All 201 rows, in the order of the paper."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    columns: list[str] = stored["columns"]
    rows = [dict(zip(columns, row, strict=False)) for row in stored["rows"]]  # only some have the last column
    return tuple(
        PaperRow(
            **{name: row[name] for name in ("source", "model", "dataset", "config")},
            numbers={name: row[name] for name in NUMBERS if name in row},
        )
        for row in rows
    )


def find_rows(name: str) -> list[PaperRow]:
    """The rows of `paper:MODEL/DATASET`, or the one of `paper:MODEL/DATASET/CONFIGURATION`.

    Upper and lower case are the same, and `->` is the paper's arrow. A configuration that a figure repeats from a table
    is the table's, which has a digit more. UserError with the nearest valid names where one is unknown.
    """
    model, _, rest = name.removeprefix(PREFIX).partition("/")
    dataset, _, config = rest.partition("/")
    rows = _named(name, "model", model, paper_rows())
    rows = _named(name, "dataset", dataset, rows)
    if not config:
        return rows
    rows = _named(name, "config", config.replace("->", "→"), rows)
    return [next((row for row in rows if row.source.startswith("Table")), rows[0])]


def markdown(rows: Sequence[PaperRow]) -> str:
    """One small table for each figure or table of the paper and each data set in it."""
    lines = [
        "# What the paper measured",
        "",
        INTRODUCTION,
    ]
    for source in _once(row.source for row in rows):
        lines += ["", f"## {source}"]
        for dataset in _once(row.dataset for row in rows if row.source == source):
            lines += ["", f"### {source}: {dataset}", ""]
            lines += _table([row for row in rows if (row.source, row.dataset) == (source, dataset)])
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[PaperRow]) -> list[str]:
    names = [name for name in NUMBERS if any(name in row.numbers for row in rows)]
    digits = 2 if rows[0].source.startswith("Table") else 1
    lines = [
        f"| model | configuration | {' | '.join(NUMBERS[name] for name in names)} |",
        f"| --- | --- |{' ---: |' * len(names)}",
    ]
    for row in rows:
        cells = " | ".join(f"{row.numbers[name]:.{digits}f}" for name in names)
        lines.append(f"| {row.model} | {row.config} | {cells} |")
    return lines


def _named(name: str, field: str, value: str, rows: Sequence[PaperRow]) -> list[PaperRow]:
    """The rows whose `field` is `value`; `name` is what the user wrote."""
    chosen = [row for row in rows if getattr(row, field).casefold() == value.casefold()]
    if chosen:
        return chosen
    known = _once(getattr(row, field) for row in rows)
    by_case = {entry.casefold(): entry for entry in known}
    near = difflib.get_close_matches(value.casefold(), by_case, n=1, cutoff=0.5)
    hint = f"did you mean {by_case[near[0]]}? " if near else ""
    what = {"model": "model", "dataset": "data set", "config": "configuration"}[field]
    raise UserError(f"{name}: the paper has no {what} {value!r}; {hint}valid: {', '.join(known)}")


def _once(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


if __name__ == "__main__":
    print(markdown(paper_rows()), end="")
