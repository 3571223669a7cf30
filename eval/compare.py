"""Comparison of two runs: `python -m eval.compare A B`.

A and B are each a scores.json (written by `eval.score`), a folder with one, or rows of the Ground-GRPO paper:
`paper:Qwen3-8B/ASQA`, or `paper:Qwen3-8B/ASQA/Prompt (Reasoning)` for one configuration. The table has both runs with
their 95 % intervals and, where both answered the same questions, the p-value of the paired bootstrap. Several rows of
the paper are printed below the run.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console as Terminal

from eval import factuality, trust_score
from eval.answer_extraction import TrustEvalProtocol
from eval.bootstrap import Scores, paired
from eval.report.paper_results import NUMBERS, PREFIX, find_rows
from eval.report.table import terminal_table
from grpo.errors import UserError

HEADLINES = ("trust_score", "f1_gr", "f1_ac", "f1_gc", "answered_ratio")  # required in every scores.json
PAPER_SETTINGS = {
    "reading": "reference",
    "nli": "google/t5_xxl_true_nli_mixture",
    "sentence_splitter": TrustEvalProtocol.splitter,
}
PAPER_STYLES = {"ASQA": "prose", "QAMPARI": "list", "ELI5": "claims", "ExpertQA": "claims"}
RESAMPLES, SEED = 10_000, 0
KINDS: Mapping[tuple[str, ...], Scores] = {  # columns of `items` -> the scores of their sums
    trust_score.COLUMNS: trust_score.scores,
    factuality.COLUMNS: factuality.factuality_scores,
}


Number = Annotated[float, Field(allow_inf_nan=False)]


class QuestionSums(BaseModel):
    """What each question adds to the sums: `rows[i]` belongs to question `ids[i]`."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    columns: tuple[str, ...]
    ids: tuple[str, ...]
    rows: tuple[tuple[Number, ...], ...]

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        """A missing row would pair the wrong questions."""
        if len(self.ids) != len(self.rows):
            raise ValueError(f"{len(self.ids)} ids and {len(self.rows)} rows; expected one row per id")
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} numbers; expected {len(self.columns)}, one per column")
        return self


class Scored(BaseModel):
    """One side of a comparison."""

    model_config = ConfigDict(frozen=True)

    label: str
    numbers: Mapping[str, Number]  # percent
    intervals: dict[str, tuple[Number, Number]] = {}  # 95 %, percent
    settings: dict[str, Any] = {}  # judge, style, reading, ...
    items: QuestionSums | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        return self.items.ids if self.items else ()


def read_scores(path: Path) -> Scored:
    """A scores.json, or the one in the folder `path`. UserError names the file and the key that is wrong."""
    file = path / "scores.json" if path.is_dir() else path
    below = [str(entry.parent) for entry in sorted(path.glob("*/scores.json"))]
    if below and not file.exists():  # an evaluation of several styles has scores for each
        raise UserError(f"{path}: expected one of {', '.join(below)}")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        settings = dict(stored.get("settings", {}))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); expected {_VALID}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: no scores ({error}); expected {_VALID}") from None
    headlines = factuality.OUTCOMES if settings.get("style") == "closed" else HEADLINES
    if missing := [name for name in headlines if name not in stored]:
        raise UserError(f"{file}: {missing[0]} is missing; expected {', '.join(headlines)} in percent")
    more = [name for name, value in stored.items() if isinstance(value, int | float) and name not in headlines]
    numbers = {name: stored[name] for name in (*headlines, *more)}
    try:
        fields = {name: stored[name] for name in ("intervals", "items") if stored.get(name) is not None}
        return Scored.model_validate({"label": str(path), "numbers": numbers, "settings": settings, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def find(name: str) -> list[Scored]:
    """One run, or one or several rows of the paper, by an argument of the command."""
    if not name.startswith(PREFIX):
        return [read_scores(Path(name))]
    return [
        Scored(label=row.label, numbers=row.numbers, settings={**PAPER_SETTINGS, "style": PAPER_STYLES[row.dataset]})
        for row in find_rows(name)
    ]


def why_unpaired(a: Scored, b: Scored) -> str | None:
    """The reason why two runs cannot be compared question by question, or None."""
    for side in (a, b):
        if side.items is None:
            return f"no p-values: {side.label} has no scores of single questions"
        if side.items.columns not in KINDS:
            return f"no p-values: {side.label} was scored by another version of eval.score; score it again"
        if len(set(side.ids)) < len(side.ids):
            return f"no p-values: {side.label} has the same id twice, so questions cannot be paired"
    assert a.items is not None
    assert b.items is not None
    if a.items.columns != b.items.columns:
        return "no p-values: one run answered closed-book questions, the other questions with passages"
    if missing := set(a.ids) ^ set(b.ids):
        return (
            f"no p-values: the questions differ, {len(a.ids)} and {len(b.ids)}; "
            f"{len(missing)} are in one run only, such as {min(missing)}"
        )
    return None


def paired_differences(a: Scored, b: Scored) -> dict[str, tuple[float, float]]:
    """{name: (B minus A in points, p-value)} by the paired bootstrap over the common questions."""
    assert a.items is not None, "why_unpaired comes first"
    assert b.items is not None, "why_unpaired comes first"
    place = {key: row for row, key in enumerate(b.ids)}
    sums_b_IK = np.array(b.items.rows)[[place[key] for key in a.ids]]
    return paired(np.array(a.items.rows), sums_b_IK, KINDS[a.items.columns], resamples=RESAMPLES, seed=SEED)


def pair_rows(a: Scored, b: Scored, differences: Mapping[str, tuple[float, float]]) -> list[list[str]]:
    """A header, and a row for each metric of both sides: values, intervals, B minus A, and p-values where given."""
    rows = [["", "A", "95 %", "B", "95 %", "B - A", *(["p"] if differences else [])]]
    for name in (name for name in a.numbers if name in b.numbers):
        change = b.numbers[name] - a.numbers[name]
        cells = [name, f"{a.numbers[name]:.2f}", _interval_cell(a, name), f"{b.numbers[name]:.2f}"]
        p = [f"{differences[name][1]:.4f}" if name in differences else "–"] if differences else []
        rows.append([*cells, _interval_cell(b, name), f"{change:+.2f}", *p])
    return rows


def paper_rows(run: Scored, paper: Sequence[Scored]) -> list[list[str]]:
    """A header, the run, and rows of the paper with the run's Trust-Score minus theirs."""
    names = [name for name in NUMBERS if name in HEADLINES]
    rows = [["", *(NUMBERS[name] for name in names), "run - row"]]
    for side in (run, *paper):
        change = "" if side is run else f"{run.numbers['trust_score'] - side.numbers['trust_score']:+.2f}"
        rows.append([side.label, *(f"{side.numbers[name]:.2f}" for name in names), change])
    return rows


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
            _print_rows(run, rows, terminal)
            return 0
        _print_pair(left[0], right[0], terminal)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def print_beside_paper(scores: Path, model: str, data_set: str, terminal: Terminal) -> None:
    """Print a run's scores of a data set above the paper's rows of that model, and in what they are not comparable."""
    try:
        rows = find(f"{PREFIX}{model}/{data_set}")
    except UserError as error:
        terminal.print(f"no rows of the paper: {error}", highlight=False, markup=False)
        return
    _print_rows(read_scores(scores), rows, terminal)


def _print_rows(run: Scored, rows: Sequence[Scored], terminal: Terminal) -> None:
    terminal.print(terminal_table("percent; difference in TRUST", paper_rows(run, rows)))
    differences = _differences(run, rows[0], "the run", "the paper")
    lines = ["not comparable with the paper's rows:", *differences] if differences else []
    terminal.print("\n".join(lines), highlight=False, markup=False)


def _print_pair(a: Scored, b: Scored, terminal: Terminal) -> None:
    reason = why_unpaired(a, b)
    rows = pair_rows(a, b, {} if reason else paired_differences(a, b))
    terminal.print(terminal_table(f"A = {a.label}\nB = {b.label}", rows))
    lines = [reason or f"p: paired bootstrap over {len(a.ids)} questions, {RESAMPLES} resamples"]
    terminal.print("\n".join([*lines, *_differences(a, b, "A", "B")]), highlight=False, markup=False)


def _differences(a: Scored, b: Scored, name_a: str, name_b: str) -> list[str]:
    """A line for each setting in which the two sides differ; their metrics are not comparable to the digit."""
    names = [name for name in a.settings if name in b.settings and a.settings[name] != b.settings[name]]
    return [f"scored differently: {n} = {a.settings[n]} in {name_a}, {b.settings[n]} in {name_b}" for n in names]


_VALID = "a scores.json, or a folder that holds one"
_PAPER = f"{PREFIX}Qwen3-8B/ASQA"


def _interval_cell(side: Scored, name: str) -> str:
    low_high = side.intervals.get(name)
    return f"{low_high[0]:.1f} to {low_high[1]:.1f}" if low_high else "–"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
