"""Trust-Score of a file of answers.

    python -m eval.score PREDICTIONS.jsonl --style {prose,list,claims} --nli NAME [--reference] --out scores.json

Each line of PREDICTIONS has question, answers, docs (title, text, answers_found) and output. NAME is `lexical`,
`token_subset`, or a folder or hub name of an NLI model. `--reference` repeats trust_eval 0.1.6 with every quirk and
adds its metrics under its own names; docs/evaluation.md lists the differences. `--style closed` scores closed-book
answers, which have no docs: correct, not attempted or wrong.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval import factuality, trust_score
from eval.answer_extraction import MAX_CITATIONS, DefaultProtocol, TrustEvalProtocol
from eval.answer_scores import score_answers
from eval.bootstrap import intervals
from eval.predictions import Prediction, read_predictions
from eval.report.table import METRICS, terminal_table
from eval.trust_eval_reference import trust_eval_metrics
from grpo.data.example import STYLES
from grpo.data.text import REFUSALS
from grpo.errors import UserError
from rewards.judges.base import Judge
from rewards.judges.load import WORD_JUDGES, load_judge

LEVEL = 0.95


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.score", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS.jsonl")
    parser.add_argument("--style", required=True, help=f"of the questions: {', '.join(STYLES)}")
    parser.add_argument("--nli", required=True, metavar="NAME", help="lexical, token_subset, or an NLI model's name")
    parser.add_argument("--cache", type=Path, default=None, metavar="FILE", help="cache of an NLI model's verdicts")
    parser.add_argument("--reference", action="store_true", help="every quirk of trust_eval 0.1.6")
    parser.add_argument("--reasoning", action="store_true", help="score what <answer> holds, and %%Align of <think>")
    parser.add_argument("--refusal", action="append", metavar="SENTENCE", help="counts as a refusal; may be repeated")
    parser.add_argument("--out", type=Path, default=None, help="NAME.scores.json beside NAME.jsonl, if not given")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap; 0 for no intervals")
    options = parser.parse_args(argv)
    try:
        name = options.predictions.name.partition(".")[0]
        out = options.out or options.predictions.with_name(f"{name}.scores.json")
        refuse_other_files(out)
        if options.cache and options.nli in WORD_JUDGES:
            raise UserError(f"--cache {options.cache}: the {options.nli} judge needs no cache; leave it out")
        if options.reference and options.refusal:
            raise UserError("--refusal: --reference knows the field's refusal sentence alone; leave one of them out")
        if options.resamples < 0:
            raise UserError(f"--resamples {options.resamples}: expected 0 or more")
        asked = read_predictions(options.predictions, style=options.style)
        report = score_predictions(
            asked,
            load_judge(options.nli, cache=options.cache, tell=print),
            nli=options.nli,
            reference=options.reference,
            reasoning=options.reasoning,
            refusals=(*REFUSALS, *(options.refusal or ())),
            resamples=options.resamples,
        )
        write_scores(out, report)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not options.reasoning and any("</answer>" in row.output for row in asked):
        print("warning: some outputs contain </answer>, and were scored as a whole; see --reasoning")
    Console().print(table(report, title=str(options.predictions)))
    print(f"scores: {out}")
    return 0


def score_predictions(
    predictions: Sequence[Prediction],
    judge: Judge,
    *,
    nli: str,
    reference: bool = False,
    reasoning: bool = False,
    refusals: Sequence[str] = REFUSALS,
    resamples: int = 1000,
) -> dict[str, Any]:
    """The content of scores.json: metrics in percent, intervals, settings, and the sums of each question."""
    style = predictions[0].example.style
    settings = {"style": style, "nli": nli, "reasoning": reasoning, "resamples": resamples, "level": LEVEL}
    if style == "closed":
        report, sums_IK = _closed_book(predictions, reasoning=reasoning, refusals=refusals)
        columns, scores = factuality.COLUMNS, factuality.factuality_scores
    else:
        report, sums_IK, more = _grounded(
            predictions, judge, reference=reference, reasoning=reasoning, refusals=refusals
        )
        columns, scores = trust_score.COLUMNS, trust_score.scores
        settings |= more
    if resamples:
        report["intervals"] = intervals(sums_IK, scores, resamples=resamples, level=LEVEL)
    report["settings"] = settings
    report["items"] = {
        "columns": list(columns),
        "ids": [prediction.example.id for prediction in predictions],
        "rows": [[round(value, 9) for value in row] for row in sums_IK.tolist()],
    }
    return report


def _grounded(
    predictions: Sequence[Prediction], judge: Judge, *, reference: bool, reasoning: bool, refusals: Sequence[str]
) -> tuple[dict[str, Any], trust_score.Floats, dict[str, Any]]:
    """(metrics, sums of each question, settings) of answers from passages."""
    protocol = TrustEvalProtocol() if reference else DefaultProtocol(refusals)
    scored = score_answers(predictions, judge, protocol=protocol, reasoning=reasoning)
    report = _values(trust_score.scores(scored.sums_IK.sum(0)))
    if reference:
        report |= trust_eval_metrics(scored)
    report["confusion"] = trust_score.confusion(scored.sums_IK)
    report["ceiling"] = trust_score.ceiling(len(predictions), sum(one.example.answerable for one in predictions))
    settings = {"reading": protocol.name, "sentence_splitter": protocol.splitter, "at_most_citations": MAX_CITATIONS}
    return report, scored.sums_IK, settings


def _closed_book(
    predictions: Sequence[Prediction], *, reasoning: bool, refusals: Sequence[str]
) -> tuple[dict[str, Any], trust_score.Floats]:
    """(metrics, sums of each question) of closed-book answers."""
    form = {"reasoning": reasoning, "refusals": refusals}
    asked = [
        (p.example, [factuality.outcome(p.example, p.output, **form, finished=not p.truncated)]) for p in predictions
    ]
    sums_IK = factuality.factuality_sums(asked)
    return _values(factuality.factuality_scores(sums_IK.sum(0))), sums_IK


def _values(scores: Mapping[str, trust_score.Floats]) -> dict[str, Any]:
    return {name: float(values[0]) for name, values in scores.items()}


def refuse_other_files(out: Path) -> None:
    """UserError unless `out` can be written: a new file, or earlier scores, which follow from the predictions."""
    try:
        if not out.parent.is_dir():
            raise UserError(f"{out}: there is no folder {out.parent}; give a file in one that is there")
        if not out.exists() or (out.is_file() and not out.stat().st_size):
            return
    except OSError as error:  # a name that is too long
        raise UserError(f"{out}: {error.strerror}; give another --out") from error
    try:
        old = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        old = None
    if not (isinstance(old, dict) and "items" in old and "settings" in old):
        raise UserError(f"{out} is there already and holds no scores; give another --out")


def write_scores(out: Path, report: Mapping[str, Any]) -> None:
    """Write the file whole or not at all, by a rename."""
    beside = out.with_name(f".{out.name}.part")
    try:
        beside.write_text(_dumped(report), encoding="utf-8")
        beside.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}; give a file in a folder that is there") from error


def _dumped(report: Mapping[str, Any]) -> str:
    """JSON with a line for each metric and each question."""
    parts = []
    for name, value in report.items():
        if name == "items":
            rows = ",\n      ".join(json.dumps(row) for row in value["rows"])
            head = f'"columns": {json.dumps(value["columns"])},\n    "ids": {json.dumps(value["ids"])}'
            parts.append(f'  "items": {{\n    {head},\n    "rows": [\n      {rows}\n    ]\n  }}')
        else:
            parts.append(f"  {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def table(report: Mapping[str, Any], *, title: str) -> Table:
    """The metrics of a report with their intervals."""
    settings = report["settings"]
    how = [str(settings[name]) for name in ("nli", "reading", "sentence_splitter") if name in settings]
    rows = [["", "score", f"{settings['level']:.0%} interval"]]
    for name in (name for name in METRICS if name in report):
        low, high = report.get("intervals", {}).get(name, (None, None))
        rows.append([METRICS[name].label, f"{report[name]:.2f}", "" if low is None else f"{low:.1f} to {high:.1f}"])
    count = len(report["items"]["ids"])
    shown = terminal_table(f"{title}: {count} {settings['style']} questions, percent ({', '.join(how)})", rows)
    if (ceiling := report.get("ceiling", 100.0)) < 99.995:
        missing = "unanswerable" if ceiling > 50 else "answerable"
        shown.caption = f"a perfect system scores {ceiling:.2f} here: answers_found says that no question is {missing}"
    return shown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
