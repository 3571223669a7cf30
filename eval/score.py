"""Trust-Score of a file of answers.

    python -m eval.score PREDICTIONS.jsonl --style {prose,list,claims} --nli NAME [--reference] --out scores.json

Each line of PREDICTIONS has question, answers, docs (title, text, answers_found) and output. NAME is `lexical`, a
folder or a hub name of an NLI model. `--reference` repeats the field's evaluator with every quirk and adds its numbers
under its own names; docs/evaluation.md lists what differs.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.answer_extraction import MOST_CITATIONS, Field, Reader
from eval.bootstrap import intervals
from eval.judging import judge
from eval.predictions import STYLES, Prediction, read_predictions
from eval.sentence_splitter import PUNKT, make_splitter
from eval.trust_eval_reference import field_numbers
from eval.trust_score import COLUMNS, confusion, scores
from grpo.data.example import Style
from grpo.errors import UserError
from rewards.judges.base import Verifier, make_verifier

LEVEL = 0.95
SHOWN = {  # what the table has: name in scores.json -> in words
    "trust_score": "Trust-Score",
    "f1_gr": "F1_GR  grounded refusals",
    "f1_ac": "F1_AC  answer correctness",
    "f1_gc": "F1_GC  grounded citations",
    "citation_recall": "  citation recall",
    "citation_precision": "  citation precision",
    "answered_ratio": "AR     answered",
    "over_refusal": "refused though answerable",
    "over_answer": "answered though unanswerable",
    "align": "%Align reasoning entails the answer",
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.score", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS.jsonl")
    parser.add_argument("--style", required=True, help=f"of the questions: {', '.join(STYLES)}")
    parser.add_argument("--nli", required=True, metavar="NAME", help="lexical, or a folder or hub name of an NLI model")
    parser.add_argument(
        "--cache", type=Path, default=None, metavar="FILE", help="where an NLI model's verdicts are kept"
    )
    parser.add_argument("--reference", action="store_true", help="every quirk of the field's evaluator")
    parser.add_argument("--reasoning", action="store_true", help="score what <answer> holds, and %%Align of <think>")
    parser.add_argument("--out", type=Path, default=None, help="NAME.scores.json beside NAME.jsonl, if not given")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap; 0 for no intervals")
    options = parser.parse_args(argv)
    try:
        name = options.predictions.name.partition(".")[0]
        out = options.out or options.predictions.with_name(f"{name}.scores.json")
        refuse_other_files(out)
        if options.cache and options.nli == "lexical":
            raise UserError(f"--cache {options.cache}: the lexical judge needs no cache; leave it out")
        if options.resamples < 0:
            raise UserError(f"--resamples {options.resamples}: expected 0 or more")
        asked = read_predictions(options.predictions, style=options.style)
        report = score_predictions(
            asked,
            make_verifier(options.nli, cache=options.cache, tell=print),
            nli=options.nli,
            reference=options.reference,
            reasoning=options.reasoning,
            resamples=options.resamples,
        )
        write_scores(out, report)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not options.reasoning and any("</answer>" in row.output for row in asked):
        print("warning: some outputs hold </answer>, and all of them were scored as they are; see --reasoning")
    Console().print(table(report, title=str(options.predictions)))
    print(f"scores: {out}")
    return 0


def score_file(
    path: Path, verifier: Verifier, *, style: Style, nli: str, reference: bool, reasoning: bool, out: Path
) -> dict[str, Any]:
    """Score a file of predictions by the verifier whose name is `nli`, write `out`, and return what it holds."""
    refuse_other_files(out)
    asked = read_predictions(path, style=style)
    report = score_predictions(asked, verifier, nli=nli, reference=reference, reasoning=reasoning)
    write_scores(out, report)
    return report


def score_predictions(
    predictions: Sequence[Prediction],
    verifier: Verifier,
    *,
    nli: str,
    reference: bool = False,
    reasoning: bool = False,
    resamples: int = 1000,
) -> dict[str, Any]:
    """What scores.json holds: the numbers in percent, their intervals, the settings, and the sums of each question."""
    splitter = make_splitter()
    if reference and splitter.name != PUNKT:
        raise UserError("the reference reading splits with NLTK's punkt, whose data is not there; run `make setup`")
    reading = Field(splitter) if reference else Reader(splitter)
    items = judge(predictions, verifier, reading=reading, reasoning=reasoning)
    report: dict[str, Any] = {name: float(values[0]) for name, values in scores(items.sums_IK.sum(0)).items()}
    if reference:
        report |= field_numbers(items)
    report["confusion"] = confusion(items.sums_IK)
    if resamples:
        report["intervals"] = intervals(items.sums_IK, scores, resamples=resamples, level=LEVEL)
    report["settings"] = {
        "style": predictions[0].example.style,
        "nli": nli,
        "reading": reading.name,
        "reasoning": reasoning,
        "sentence_splitter": splitter.name,
        "at_most_citations": MOST_CITATIONS,
        "resamples": resamples,
        "level": LEVEL,
    }
    report["items"] = {
        "columns": list(COLUMNS),
        "ids": [prediction.example.id for prediction in predictions],
        "rows": [[round(value, 9) for value in row] for row in items.sums_IK.tolist()],
    }
    return report


def refuse_other_files(out: Path) -> None:
    """An earlier scores file may be written anew, since it follows from the predictions; any other file may not."""
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
    if not (isinstance(old, dict) and "trust_score" in old and "settings" in old):
        raise UserError(f"{out} is there already and holds no scores; give another --out")


def write_scores(out: Path, report: Mapping[str, Any]) -> None:
    """Whole or not at all: written beside its place and renamed."""
    beside = out.with_name(f".{out.name}.part")
    try:
        beside.write_text(_dumped(report), encoding="utf-8")
        beside.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}; give a file in a folder that is there") from error


def _dumped(report: Mapping[str, Any]) -> str:
    """JSON with a line for each number and each question."""
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
    """The numbers of SHOWN, with their intervals where there are any."""
    settings = report["settings"]
    rows = Table(
        title=f"{escape(title)}: {len(report['items']['ids'])} {settings['style']} questions, percent "
        f"({settings['nli']}, {settings['reading']} reading, {settings['sentence_splitter']})",
        title_justify="left",
    )
    for column in ("", "score", f"{settings['level']:.0%} interval"):
        rows.add_column(column, justify="right" if column else "left")
    for name, words in SHOWN.items():
        if name in report:
            low, high = report.get("intervals", {}).get(name, (None, None))
            rows.add_row(words, f"{report[name]:.2f}", "" if low is None else f"{low:.1f} to {high:.1f}")
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
