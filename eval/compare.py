"""Which of two runs is better, and is it more than chance? `python -m eval.compare A B`.

A and B are each a scores.json (as `eval.score` writes it), a folder that holds one, or rows of the paper:
`paper:Qwen3-8B/ASQA`, or `paper:Qwen3-8B/ASQA/Prompt (Reasoning)` for one configuration. Two runs stand side by side
with their 95 % intervals and, where both were asked the same questions, the p-value of the paired bootstrap; several
rows of the paper stand below the run.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console as Terminal
from rich.table import Table

from eval.bootstrap import paired
from eval.report.paper_results import NUMBERS, PREFIX, find_rows
from eval.sentence_splitter import PUNKT
from eval.trust_score import COLUMNS, scores
from grpo.errors import UserError

HEADLINES = ("trust_score", "f1_gr", "f1_ac", "f1_gc", "answered_ratio")  # what every scores.json must have
PAPER_SETTINGS = {"reading": "reference", "nli": "google/t5_xxl_true_nli_mixture", "sentence_splitter": PUNKT}
PAPER_STYLES = {"ASQA": "prose", "QAMPARI": "list", "ELI5": "claims", "ExpertQA": "claims"}
RESAMPLES, SEED = 10_000, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What each question adds to the sums that the scores are made of: `sums_IK[i]` belongs to question `ids[i]`."""

    ids: tuple[str, ...]
    columns: tuple[str, ...]
    sums_IK: np.ndarray  # float64 [items, columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One side of a comparison."""

    label: str
    numbers: Mapping[str, float]  # percent
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # 95 %, percent
    settings: Mapping[str, object] = field(default_factory=dict)  # what scored it: verifier, style, ...
    rows: Rows | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        return self.rows.ids if self.rows else ()


def read_scores(path: Path) -> Scored:
    """A scores.json, or the one in the folder `path`. UserError names the file and the key that is wrong."""
    file = path / "scores.json" if path.is_dir() else path
    below = [str(entry.parent) for entry in sorted(path.glob("*/scores.json"))]
    if below and not file.exists():  # an evaluation of several styles, which are scored one by one
        raise UserError(f"{path}: one of them is compared at a time: {', '.join(below)}")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); expected {_VALID}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not JSON ({error}); expected {_VALID}") from None
    if not isinstance(stored, dict):
        raise UserError(f"{file}: {type(stored).__name__} at the top; expected {_VALID}")
    for name in HEADLINES:
        if name not in stored:
            raise UserError(f"{file}: {name} is missing; expected {', '.join(HEADLINES)} in percent")
        _number(file, name, stored[name])
    numbers = {name: _number(file, name, value) for name, value in stored.items() if _is_number(value)}
    return Scored(
        label=str(path),
        numbers={name: numbers[name] for name in (*HEADLINES, *numbers)},  # headlines first
        intervals={name: _interval(file, name, pair) for name, pair in _object(file, "intervals", stored).items()},
        settings=_object(file, "settings", stored),
        rows=_rows(file, stored["items"]) if stored.get("items") is not None else None,
    )


def find(name: str) -> list[Scored]:
    """What the argument `name` stands for: one run, or one or several rows of the paper."""
    if not name.startswith(PREFIX):
        return [read_scores(Path(name))]
    return [
        Scored(label=row.label, numbers=row.numbers, settings={**PAPER_SETTINGS, "style": PAPER_STYLES[row.dataset]})
        for row in find_rows(name)
    ]


def why_unpaired(a: Scored, b: Scored) -> str | None:
    """Why the two cannot be compared question by question, in one line; None where they can."""
    for side in (a, b):
        if side.rows is None:
            return f"no p-values: {side.label} has no scores of single questions"
        if side.rows.columns != COLUMNS:
            return f"no p-values: {side.label} was scored by another version of eval.score; score it again"
        if len(set(side.ids)) < len(side.ids):
            return f"no p-values: {side.label} has the same id twice, so questions cannot be paired"
    if missing := set(a.ids) ^ set(b.ids):
        return (
            f"no p-values: other questions were asked, {len(a.ids)} and {len(b.ids)}; "
            f"{len(missing)} are in one run only, such as {min(missing)}"
        )
    return None


def paired_differences(a: Scored, b: Scored) -> dict[str, tuple[float, float]]:
    """(B minus A in points, p-value) of every score: the paired bootstrap over questions, which both were asked."""
    assert a.rows is not None, "why_unpaired comes first"
    assert b.rows is not None, "why_unpaired comes first"
    place = {key: row for row, key in enumerate(b.ids)}
    sums_b_IK = b.rows.sums_IK[[place[key] for key in a.ids]]
    return paired(a.rows.sums_IK, sums_b_IK, scores, resamples=RESAMPLES, seed=SEED)


def pair_table(a: Scored, b: Scored, differences: Mapping[str, tuple[float, float]]) -> Table:
    """Two sides: the numbers that both have, their intervals, B minus A, and the p-value where there is one."""
    with_p = ("p",) if differences else ()
    table = _table(("", "A", "95 %", "B", "95 %", "B - A", *with_p), title=f"A = {a.label}\nB = {b.label}")
    for name in (name for name in a.numbers if name in b.numbers):
        change = b.numbers[name] - a.numbers[name]
        cells = [name, f"{a.numbers[name]:.2f}", _spread(a, name), f"{b.numbers[name]:.2f}", _spread(b, name)]
        p = [f"{differences[name][1]:.4f}" if name in differences else "–"] if with_p else []
        table.add_row(*cells, f"{change:+.2f}", *p)
    return table


def paper_table(run: Scored, rows: Sequence[Scored]) -> Table:
    """The run, and below it rows of the paper with what the run's Trust-Score has more or less than theirs."""
    names = [name for name in NUMBERS if name in HEADLINES]
    table = _table(("", *(NUMBERS[name] for name in names), "run - row"), title="percent; difference in TRUST")
    for side in (run, *rows):
        change = "" if side is run else f"{run.numbers['trust_score'] - side.numbers['trust_score']:+.2f}"
        table.add_row(side.label, *(f"{side.numbers[name]:.2f}" for name in names), change)
    return table


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    try:
        if len(argv) != 2:
            raise UserError(f"{len(argv)} arguments; usage: python -m eval.compare A B, each {_VALID} or {_PAPER}")
        left, right = find(argv[0]), find(argv[1])
        if len(left) > 1 and len(right) > 1:
            raise UserError(f"{argv[0]} and {argv[1]}: several rows each; name one configuration, as in {_PAPER}/SFT")
        terminal = Terminal(width=None if sys.stdout.isatty() else 140)
        if len(left) > 1 or len(right) > 1:
            (run,), rows = (right, left) if len(left) > 1 else (left, right)
            terminal.print(paper_table(run, rows))
            terminal.print("\n".join(_differences(run, rows[0], "the run", "the paper")), highlight=False, markup=False)
            return 0
        _print_pair(left[0], right[0], terminal)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _print_pair(a: Scored, b: Scored, terminal: Terminal) -> None:
    reason = why_unpaired(a, b)
    terminal.print(pair_table(a, b, {} if reason else paired_differences(a, b)))
    lines = [reason or f"p: paired bootstrap over {len(a.ids)} questions, {RESAMPLES} resamples"]
    terminal.print("\n".join([*lines, *_differences(a, b, "A", "B")]), highlight=False, markup=False)


def _differences(a: Scored, b: Scored, name_a: str, name_b: str) -> list[str]:
    """What made the two sides' scores otherwise, a line each: such numbers are not comparable to the digit."""
    names = [name for name in a.settings if name in b.settings and a.settings[name] != b.settings[name]]
    return [f"scored differently: {n} = {a.settings[n]} in {name_a}, {b.settings[n]} in {name_b}" for n in names]


_VALID = "a scores.json, or a folder that holds one"
_PAPER = f"{PREFIX}Qwen3-8B/ASQA"


def _table(columns: Sequence[str], *, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    return table


def _spread(side: Scored, name: str) -> str:
    low_high = side.intervals.get(name)
    return f"{low_high[0]:.1f} to {low_high[1]:.1f}" if low_high else "–"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(file: Path, name: str, value: Any) -> float:
    if not _is_number(value) or not math.isfinite(value):
        raise UserError(f"{file}: {name} is {value!r:.60}; expected a finite number")
    return float(value)


def _interval(file: Path, name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise UserError(f"{file}: intervals.{name} is {value!r:.60}; expected [low, high] in percent")
    low, high = (_number(file, f"intervals.{name}", bound) for bound in value)
    return low, high


def _object(file: Path, key: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    value = stored.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{file}: {key} is {type(value).__name__}; expected an object")
    return value


def _rows(file: Path, value: Any) -> Rows:
    """The scores of single questions; every list is checked, since one row too few would pair the wrong questions."""
    if not isinstance(value, dict):
        raise UserError(f"{file}: items is {type(value).__name__}; expected columns, ids and rows")
    for name in ("columns", "ids", "rows"):
        if not isinstance(value.get(name), list):
            raise UserError(f"{file}: items.{name} is missing or no list; expected columns, ids and rows")
    columns, ids, rows = value["columns"], [str(key) for key in value["ids"]], value["rows"]
    if len(ids) != len(rows):
        raise UserError(f"{file}: items has {len(ids)} ids and {len(rows)} rows; expected one row per id")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(columns):
            raise UserError(f"{file}: items.rows, row {number}: expected {len(columns)} numbers, one per column")
        for column, cell in zip(columns, row, strict=True):
            _number(file, f"items.rows, row {number}, {column}", cell)
    sums_IK = np.array(rows, dtype=np.float64).reshape(len(rows), len(columns))
    return Rows(ids=tuple(ids), columns=tuple(columns), sums_IK=sums_IK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
