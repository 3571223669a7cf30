"""What came of an experiment? Its arms side by side, with bootstrap intervals over the held-out questions, and a plot.

The answers of all seeds of an arm are pooled question by question, and the questions are resampled: the intervals say
what other questions could have given. What another seed could have given, the Trust-Scores of the single seeds say.

I questions, K columns of sums: those of `eval.trust_score`, then ours from the labels.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console as Terminal
from rich.table import Table

from eval.answer_extraction import Reader
from eval.bootstrap import Floats, intervals
from eval.judging import judge
from eval.label_metrics import WORDS
from eval.predictions import Prediction
from eval.sentence_splitter import make_splitter
from eval.trust_score import COLUMNS, scores
from grpo.config import load
from grpo.data.example import Example
from grpo.errors import UserError
from grpo.telemetry.run_logger import Console
from launch.builders import assemble
from launch.builders.models import make_judge
from launch.config.recipe import Recipe

GRADED = ("grounded", "right", "refused_answerable", "refused_unanswerable")
SHOWN = {
    "trust_score": "Trust-Score",
    "f1_gr": "F1_GR, grounded refusals",
    "f1_ac": "F1_AC, answer correctness",
    "f1_gc": "F1_GC, grounded citations",
    "answered_ratio": "AR, answered",
    **{name: WORDS[name] for name in GRADED},
}
PLOTTED = ("trust_score", "f1_gr", "f1_ac", "f1_gc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An arm's numbers in percent, their 95 % intervals, and each seed's own numbers."""

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    seeds: Sequence[Mapping[str, float]]
    questions: int


def report(title: str, folders: Mapping[str, Sequence[Path]], out: Path, console: Console) -> None:
    """Print the table, and leave table.md, numbers.json and plot.png in `out`; they follow from the runs, so an earlier
    report of the same experiment is replaced."""
    console.status("scoring the held-out answers")
    asked = common_questions([folder for runs in folders.values() for folder in runs])
    first = next(iter(folders.values()))  # what the last runs of the first arm started from
    arms = {"before": outcome([sums(folder, "before", asked, console) for folder in first])}
    arms |= {arm: outcome([sums(folder, "after", asked, console) for folder in runs]) for arm, runs in folders.items()}
    out.mkdir(parents=True, exist_ok=True)
    Terminal(width=200).print(table(title, arms))
    written = {
        name: {"values": arm.values, "intervals": arm.intervals, "seeds": arm.seeds, "questions": arm.questions}
        for name, arm in arms.items()
    }
    (out / "numbers.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(markdown(title, arms), encoding="utf-8")
    plot(title, arms, out / "plot.png")
    console.line(f"written      {out}: table.md, numbers.json, plot.png")


def common_questions(folders: Sequence[Path]) -> dict[str, Example]:
    """The questions that all these runs hold out, by id. UserError where a run holds out others, or has other passages
    for them: ids do not tell, since the invented world uses the same ones whatever its settings."""
    common: dict[str, Example] = {}
    for folder in dict.fromkeys(folders):
        recipe = load(Recipe, [str(folder / "recipe.toml")])
        held_out = {e.id: e for e in assemble.load_questions(recipe, Console(io.StringIO())).held_out}
        common = common or held_out
        if held_out != common:
            raise UserError(
                f"{folder}: holds out other questions or passages than {folders[0]}, so the two cannot be compared; "
                "expected what decides on them, of [data] and [eval], in the experiment's own arguments, for all arms"
            )
    return common


def sums(folder: Path, moment: str, held_out: Mapping[str, Example], console: Console) -> Floats:
    """[I, K]: what each held-out answer of a run at that moment adds to the sums, by the run's own judge."""
    recipe = load(Recipe, [str(folder / "recipe.toml")])
    path = folder / "held_out.jsonl"
    rows = []
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = sorted((row for row in rows if row["moment"] == moment), key=lambda row: row["id"])
    if not rows:
        raise UserError(f"{path}: no held-out answers of {moment!r}; expected a run with eval.questions above 0")
    if any(row["id"] not in held_out for row in rows):
        raise UserError(
            f"{path}: answers to other questions than {folder / 'recipe.toml'} holds out; was data.source changed?"
        )
    predictions = [Prediction(held_out[row["id"]], row["text"]) for row in rows]
    verifier = make_judge(recipe.eval.nli, console=console)
    judged = judge(predictions, verifier, reading=Reader(make_splitter()), reasoning=recipe.model.reasoning)
    labels = [
        [row["grounded"], row["right"], row["refused"] and row["answerable"], row["refused"] and not row["answerable"]]
        for row in rows
    ]
    return np.hstack([judged.sums_IK, np.array(labels, dtype=np.float64)])


def outcome(seeds: Sequence[Floats]) -> Outcome:
    """The seeds' answers pooled by question; UserError where they are not to the same questions."""
    if len({len(one) for one in seeds}) > 1:
        raise UserError(
            f"the runs of an arm answered {[len(one) for one in seeds]} held-out questions; expected the same"
        )
    pooled_IK = np.sum(seeds, axis=0)
    return Outcome(
        values={name: float(value[0]) for name, value in numbers(pooled_IK.sum(0)).items()},
        intervals=intervals(pooled_IK, numbers),
        seeds=[{name: float(value[0]) for name, value in numbers(one.sum(0)).items()} for one in seeds],
        questions=len(pooled_IK),
    )


def numbers(sums_RK: Floats) -> dict[str, Floats]:
    """The numbers of SHOWN, in percent, for each row of sums: [R, K] -> {name: [R]}. A share of nothing is 0."""
    sums_RK = np.atleast_2d(sums_RK)
    trust = scores(sums_RK[:, : len(COLUMNS)])
    answerable = sums_RK[:, COLUMNS.index("answerable")]
    of = {"refused_unanswerable": sums_RK[:, COLUMNS.index("questions")] - answerable}
    found = {name: trust[name] for name in SHOWN if name in trust}
    for place, name in enumerate(GRADED, len(COLUMNS)):
        whole = of.get(name, answerable)
        found[name] = 100 * np.divide(sums_RK[:, place], whole, out=np.zeros_like(whole), where=whole > 0)
    return found


def cells(arms: Mapping[str, Outcome]) -> list[list[str]]:
    """A row for each number, an arm a column: `55.4 [52.1, 58.0]`; then each seed's Trust-Score."""
    rows = []
    for name, words in SHOWN.items():
        shown = [(arm.values[name], *arm.intervals[name]) for arm in arms.values()]
        rows.append([words, *(f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in shown)])
    rows.append(
        ["Trust-Score by seed", *(", ".join(f"{s['trust_score']:.1f}" for s in a.seeds) for a in arms.values())]
    )
    return rows


def table(title: str, arms: Mapping[str, Outcome]) -> Table:
    questions = next(iter(arms.values())).questions
    shown = Table(title=f"{title}: {questions} held-out questions, percent [95 % interval]", title_justify="left")
    for column in ("", *arms):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in cells(arms):
        shown.add_row(*row)
    return shown


def markdown(title: str, arms: Mapping[str, Outcome]) -> str:
    questions, seeds = next(iter(arms.values())).questions, len(next(iter(arms.values())).seeds)
    head = [
        f"# {title}",
        "",
        f"{questions} held-out questions, {seeds} seeds, percent [95 % interval over questions].",
        "",
    ]
    head += ["| | " + " | ".join(arms) + " |", "| --- |" + " --- |" * len(arms)]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in cells(arms))]) + "\n"


def plot(title: str, arms: Mapping[str, Outcome], path: Path) -> None:
    """The numbers of PLOTTED, a group of arms each: the value with its interval, and each seed as a dot."""
    from matplotlib.figure import Figure  # without pyplot: no window system is asked for

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(arms)
    for number, (name, arm) in enumerate(arms.items()):
        places = np.arange(len(PLOTTED)) + (number - (len(arms) - 1) / 2) * width
        values = np.array([arm.values[key] for key in PLOTTED])
        bounds = np.array([arm.intervals[key] for key in PLOTTED]).T
        around = np.abs(bounds - values)
        axes.bar(places, values, width * 0.9, yerr=around, capsize=3, label=name, alpha=0.75)
        for one in arm.seeds:
            axes.plot(places, [one[key] for key in PLOTTED], "k.", markersize=4)
    axes.set_xticks(range(len(PLOTTED)), [SHOWN[key].partition(",")[0] for key in PLOTTED])
    axes.set_ylabel("percent, 95 % interval over questions; dots: seeds")
    axes.set_title(title)
    axes.legend()
    figure.savefig(path, dpi=150)
