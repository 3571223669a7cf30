"""The 201 rows of Trust-Scores in arXiv 2506.15522v1 by model and data set: figures to one decimal, tables to two.

`python -m eval.compare RUN paper:Qwen3-8B/ASQA` prints a run beside them.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """One row: `PaperRow(source="Figure 2", model="Qwen3-8B", dataset="ASQA", config="Prompt (Reasoning)", ...)`."""

    source: str  # figure or table
    model: str
    dataset: str
    config: str
    numbers: Mapping[str, float]  # percent, by our names

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
    """The rows of `paper:MODEL/DATASET`, or the one row of `paper:MODEL/DATASET/CONFIGURATION`.

    Case is ignored, and `->` stands for the paper's arrow. Where a figure repeats a row of a table, the table's row is
    taken, which has one more digit. UserError names the nearest valid name.
    """
    model, _, rest = name.removeprefix(PREFIX).partition("/")
    dataset, _, config = rest.partition("/")
    rows = _named(name, "model", model, paper_rows())
    rows = _named(name, "dataset", dataset, rows)
    if not config:
        return rows
    rows = _named(name, "config", config.replace("->", "→"), rows)
    return [next((row for row in rows if row.source.startswith("Table")), rows[0])]


def _named(name: str, field: str, value: str, rows: Sequence[PaperRow]) -> list[PaperRow]:
    """The rows whose `field` is `value`; `name` is the argument of the user, for the error."""
    chosen = [row for row in rows if getattr(row, field).casefold() == value.casefold()]
    if chosen:
        return chosen
    known = list(dict.fromkeys(getattr(row, field) for row in rows))
    by_case = {entry.casefold(): entry for entry in known}
    near = difflib.get_close_matches(value.casefold(), by_case, n=1, cutoff=0.5)
    hint = f"did you mean {by_case[near[0]]}? " if near else ""
    what = {"model": "model", "dataset": "data set", "config": "configuration"}[field]
    raise UserError(f"{name}: the paper has no {what} {value!r}; {hint}valid: {', '.join(known)}")
