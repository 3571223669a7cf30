"""The report of an experiment: arms side by side, with bootstrap intervals over the held-out questions, and a plot.

An arm has a run folder for each seed. The answers of all seeds are pooled question by question, and questions are
resampled: the intervals show what other questions could give. The Trust-Scores of the single seeds are printed too.

I questions, K columns of sums: those of `eval.trust_score`, then the label metrics of GRADED.
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from eval.answer_extraction import DefaultProtocol
from eval.answer_scores import score_answers
from eval.bootstrap import Floats, intervals
from eval.predictions import Prediction, read_questions
from eval.report.table import TRUST_METRICS, Column, markdown_table, metric_rows, plot, terminal_table
from eval.trust_score import COLUMNS, percent, scores
from grpo.data.example import Example
from grpo.errors import UserError
from rewards.judges.base import Judge

GRADED = ("grounded", "right", "refused_answerable", "refused_unanswerable")
SHOWN = (*TRUST_METRICS, *GRADED)
PLOTTED = ("trust_score", "f1_gr", "f1_ac", "f1_gc")

MakeJudge = Callable[[str], Judge]


def report(title: str, arms: Mapping[str, Sequence[Path]], out: Path, make_judge: MakeJudge) -> Table:
    """Write table.md, numbers.json and plot.png of run folders to `out`, over an earlier report; return the table."""
    questions = common_questions([folder for runs in arms.values() for folder in runs])
    first = next(iter(arms.values()))
    columns = {"before": pooled([sums(folder, "before", questions, make_judge) for folder in first])}
    for arm, runs in arms.items():
        columns[arm] = pooled([sums(folder, "after", questions, make_judge) for folder in runs])
    count = f"{len(questions)} held-out questions, {len(first)} seeds, percent [95 % interval over questions]"
    return write_report(title, count, columns, out, shown=SHOWN, plotted=PLOTTED)


def write_report(
    title: str, what: str, columns: Mapping[str, Column], out: Path, *, shown: Sequence[str], plotted: Sequence[str]
) -> Table:
    """Write table.md, numbers.json and plot.png of some columns to the folder `out`, and return the table."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
        name: {"values": c.values, "intervals": c.intervals, "seeds": c.seeds, "questions": c.questions}
        for name, c in columns.items()
    }
    rows = metric_rows(columns, shown)
    (out / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(f"# {title}\n\n{what}.\n\n{markdown_table(rows)}", encoding="utf-8")
    plot(title, columns, plotted, out / "plot.png")
    return terminal_table(f"{title}: {what}", rows)


def common_questions(folders: Sequence[Path]) -> dict[str, Example]:
    """The held-out questions of all these runs, by id. UserError where two runs hold out other questions or passages.

    Ids alone do not tell: the invented world uses the same ids whatever its settings.
    """
    common: dict[str, Example] = {}
    for folder in dict.fromkeys(folders):
        held_out = read_questions(folder, split="held_out")
        common = common or held_out
        if held_out != common:
            raise UserError(
                f"{folder}: holds out other questions or passages than {folders[0]}, so the two cannot be compared; "
                "expected [data] and [held_out] in the experiment's own arguments, the same for all arms"
            )
    return common


def sums(folder: Path, moment: str, questions: Mapping[str, Example], make_judge: MakeJudge) -> Floats:
    """[I, K]: what each held-out answer of a run at `moment` adds to the sums, by the judge of the run's recipe."""
    recipe = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    path = folder / "held_out.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [row for row in map(json.loads, lines) if row["moment"] == moment]
    rows.sort(key=lambda row: row["id"])
    if not rows:
        raise UserError(f"{path}: no held-out answers of {moment!r}; expected a run with held_out.questions above 0")
    if unknown := [row["id"] for row in rows if row["id"] not in questions]:
        raise UserError(f"{path}: {unknown[0]} is not among the held-out questions of {folder / 'questions.jsonl'}")
    predictions = [Prediction(questions[row["id"]], row["text"]) for row in rows]
    judge, model = make_judge(recipe["held_out"]["judge"]), recipe["model"]
    protocol = DefaultProtocol(model["refusals"])
    scored = score_answers(predictions, judge, protocol=protocol, reasoning=model["reasoning"])
    labels = [
        [row["grounded"], row["right"], row["refused"] and row["answerable"], row["refused"] and not row["answerable"]]
        for row in rows
    ]
    return np.hstack([scored.sums_IK, np.array(labels, dtype=np.float64)])


def pooled(seeds: Sequence[Floats]) -> Column:
    """One column from the sums of each seed. UserError where the seeds answered different numbers of questions."""
    if len({len(sums_IK) for sums_IK in seeds}) > 1:
        raise UserError(
            f"the runs of an arm answered {[len(sums_IK) for sums_IK in seeds]} held-out questions; expected the same"
        )
    pooled_IK = np.sum(seeds, axis=0)
    return Column(
        values={name: float(value[0]) for name, value in metrics(pooled_IK.sum(0)).items()},
        intervals=intervals(pooled_IK, metrics),
        seeds=[{name: float(value[0]) for name, value in metrics(sums_IK.sum(0)).items()} for sums_IK in seeds],
        questions=len(pooled_IK),
    )


def metrics(sums_RK: Floats) -> dict[str, Floats]:
    """The metrics of SHOWN in percent for each row of sums: [R, K] -> {name: [R]}. A share of nothing is 0."""
    sums_RK = np.atleast_2d(sums_RK)
    trust = scores(sums_RK[:, : len(COLUMNS)])
    answerable = sums_RK[:, COLUMNS.index("answerable")]
    whole = {"refused_unanswerable": sums_RK[:, COLUMNS.index("questions")] - answerable}
    found = {name: trust[name] for name in TRUST_METRICS if name in trust}
    for place, name in enumerate(GRADED, len(COLUMNS)):
        found[name] = percent(sums_RK[:, place], whole.get(name, answerable))
    return found
