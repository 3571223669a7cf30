"""How cautious should the system prompt be? The same questions under every numbered prompt, by the recipe's model.

    python -m eval.prompt_sweep configs/factuality-fact.toml configs/models/qwen3-8b.toml --out sweeps/qwen3-8b

Asks the held-out questions of the recipes, `--eval.questions=N` of them, `--samples` times under each prompt of
configs/prompts/factuality, from 1, the most eager, to 8, the most cautious, on the recipe's rollout engine. The folder
gets answers.jsonl (what was answered, and what came of it), table.md, numbers.json and curve.png: what is right against
what is not attempted. The same command goes on after a kill; a folder of another model or other settings is refused.
Overrides as in training; `--model.start=RUN` asks a trained model.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from eval.bootstrap import Floats, intervals
from eval.factuality import BUCKETS, Outcome, factuality
from grpo.data.prompts import PROMPTS
from grpo.errors import UserError
from grpo.telemetry.run_logger import Console

COLUMNS = ("answers", "correct", "not_attempted", "wrong", "unanswerable", "unanswerable_not_attempted")
SHOWN = {
    "correct": "correct",
    "not_attempted": "not attempted",
    "wrong": "wrong",
    "correct_given_attempted": "correct of attempted",
    "unanswerable_not_attempted": "not attempted, unanswerable",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one question under one prompt."""

    answerable: bool
    outcomes: tuple[Outcome, ...]


def numbered(folder: Path) -> dict[int, Path]:
    """The prompts of a folder by their numbers, `4.txt`; other files are none. UserError where there is none."""
    found = {int(path.stem): path for path in folder.glob("*.txt") if path.stem.isdecimal()}
    if not found:
        raise UserError(f"--prompts {folder}: holds no numbered prompts; expected files such as 1.txt and 2.txt")
    return dict(sorted(found.items()))


def sums(asked: Sequence[Asked]) -> Floats:
    """[I, K]: what each question adds to COLUMNS."""
    rows = []
    for one in asked:
        count = one.outcomes.count
        silent = count("not_attempted")
        hopeless = (0, 0) if one.answerable else (len(one.outcomes), silent)
        rows.append((len(one.outcomes), count("correct"), silent, count("wrong"), *hopeless))
    return np.array(rows, dtype=np.float64)


def numbers(sums_RK: Floats) -> dict[str, Floats]:
    """The numbers of SHOWN in percent, for each row of sums: [R, K] -> {name: [R]}. A share of nothing is 0."""
    sums_RK = np.atleast_2d(sums_RK)
    of = dict(zip(COLUMNS, sums_RK.T, strict=True))

    def share(part: Floats, whole: Floats) -> Floats:
        return 100 * np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)

    return {
        **{name: share(of[name], of["answers"]) for name in ("correct", "not_attempted", "wrong")},
        "correct_given_attempted": share(of["correct"], of["correct"] + of["wrong"]),
        "unanswerable_not_attempted": share(of["unanswerable_not_attempted"], of["unanswerable"]),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A prompt's numbers in percent with their 95 % intervals over questions, and the shares of the five buckets."""

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    buckets: Mapping[str, float]


def point(asked: Sequence[Asked]) -> Point:
    """The numbers of one prompt. Whether nobody can answer is in no number where no such question was asked."""
    sums_IK = sums(asked)
    shown = [name for name in SHOWN if name != "unanswerable_not_attempted" or sums_IK[:, 4].any()]
    values, around = numbers(sums_IK.sum(0)), intervals(sums_IK, numbers)
    return Point(
        values={name: float(values[name][0]) for name in shown},
        intervals={name: around[name] for name in shown},
        buckets={str(name): share for name, share in factuality([one.outcomes for one in asked]).shares.items()},
    )


def report(title: str, points: Mapping[int, Point], out: Path) -> Table:
    """Leave table.md, numbers.json and curve.png in `out`, and return the table. They follow from answers.jsonl, so an
    earlier report is replaced."""
    written = {
        number: {"values": p.values, "intervals": p.intervals, "buckets": p.buckets} for number, p in points.items()
    }
    (out / "numbers.json").write_text(json.dumps({"title": title, "prompts": written}, indent=1) + "\n", "utf-8")
    rows = cells(points)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"| --- |{' ---: |' * (len(rows[0]) - 1)}"
    (out / "table.md").write_text("\n".join([f"# {title}", "", lines[0], rule, *lines[1:]]) + "\n", "utf-8")
    plot(title, points, out / "curve.png")
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def cells(points: Mapping[int, Point]) -> list[list[str]]:
    """A header, and a row for each prompt: `55.4 [52.1, 58.0]`, then the five buckets."""
    names = list(next(iter(points.values())).values)
    rows = [["prompt", *(SHOWN[name] for name in names), *BUCKETS]]
    for number, p in points.items():
        shown = [f"{p.values[name]:.1f} [{p.intervals[name][0]:.1f}, {p.intervals[name][1]:.1f}]" for name in names]
        rows.append([str(number), *shown, *(f"{p.buckets[name]:.1f}" for name in BUCKETS)])
    return rows


def plot(title: str, points: Mapping[int, Point], path: Path) -> None:
    """Correct against not attempted, a point for each prompt, in the order of their numbers."""
    from matplotlib.figure import Figure  # without pyplot: no window system is asked for

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    xs, ys = (np.array([p.values[name] for p in points.values()]) for name in ("not_attempted", "correct"))
    around = {}
    for name, values in (("not_attempted", xs), ("correct", ys)):
        bounds = np.array([p.intervals[name] for p in points.values()]).T
        around[name] = np.abs(bounds - values)
    axes.errorbar(
        xs, ys, xerr=around["not_attempted"], yerr=around["correct"], fmt="o-", capsize=3, elinewidth=0.8, alpha=0.8
    )
    for number, x, y in zip(points, xs, ys, strict=True):
        axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(6, 6))
    axes.set_xlabel("not attempted, % of answers")
    axes.set_ylabel("correct, % of answers")
    axes.set_title(f"{title}\n95 % intervals over questions", fontsize=10)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str]) -> int:
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m eval.prompt_sweep",
        usage="python -m eval.prompt_sweep RECIPE.toml ... --out FOLDER [options] [--section.key=value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{first}{rest}",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new folder, or that of a sweep to go on with")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="answers to each question (default 8)")
    parser.add_argument(
        "--prompts", default=str(PROMPTS / "factuality"), metavar="FOLDER", help="of 1.txt, 2.txt, ... (default: ours)"
    )
    parser.add_argument("--only", metavar="1,4,8", help="these numbers only")
    arguments, recipes = parser.parse_known_args(argv)
    console = Console()
    try:
        if arguments.samples < 1:
            raise UserError(f"--samples {arguments.samples}; valid: 1 or more")
        from launch.runs.prompt_sweep import run_sweep  # the program knows the engines; the library above does not

        run_sweep(arguments, recipes, console)
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
