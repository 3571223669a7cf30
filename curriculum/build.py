"""Make grounded examples of a file of questions with answers and passages (`curriculum.builder`).

python -m curriculum.build QUESTIONS.json --out EXAMPLES.jsonl [--pool PASSAGES.json] [--label-with NAME] ...
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from curriculum.builder import BuildReport, build_examples
from curriculum.datasets import DataSpec
from curriculum.sources import READERS, read_rows
from grpo.data.example import Example, to_record
from grpo.data.files import check_new_file, source_name, write_jsonl
from grpo.errors import UserError
from rewards.judges.load import load_judge

FORMATS = tuple(dict.fromkeys(reader.name for reader in READERS))
PASSAGES = 5  # as in the paper


def main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    out = Path(args.out)
    report_file = Path(args.report) if args.report else out.with_suffix(".report.json")
    try:
        check_new_file(out)
        check_new_file(report_file, suffix=".json")
        examples, report, read_as = _build(args)
        write_jsonl(out, map(to_record, examples))
        report_file.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    except UserError as error:
        print(f"error: {error}")
        return 2
    print(f"{args.questions}: {read_as}")
    print(report)
    if report.agreement:
        print(report.agreement)
    print(f"written      {out}, and the counts: {report_file}")
    return 0


def _build(args: argparse.Namespace) -> tuple[list[Example], BuildReport, str]:
    """The examples, the report, and how the file was read."""
    judge_name = args.label_with or "lexical"
    judge = load_judge(judge_name, tell=print)
    spec = DataSpec(style=args.style, format=args.format, fields=_fields(args.fields))
    rows, _, read_as = read_rows(args.questions, spec)
    examples, report = build_examples(
        rows,
        judge=judge,
        judge_name=judge_name,
        relabel=args.label_with is not None,
        passages=args.passages,
        default_passages=PASSAGES,
        unanswerable=args.unanswerable,
        seed=args.seed,
        max_words=args.max_words,
        source=args.source or source_name(args.questions),
        pool=args.pool,
        refusals=args.refusals,
    )
    return examples, report, read_as


def _fields(pairs: Sequence[str]) -> dict[str, str]:
    """Our names of fields and the file's, of "question=user_input"."""
    parts = [pair.partition("=") for pair in pairs]
    if not all(ours and theirs for ours, _, theirs in parts):
        raise UserError(f"--fields {' '.join(pairs)}; expected pairs such as question=user_input")
    return {ours: theirs for ours, _, theirs in parts}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m curriculum.build", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("questions", help="a file, a folder or hub:NAME, in a format of docs/data-and-rewards.md")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="a new file for the examples")
    parser.add_argument("--report", metavar="FILE.json", help="a new file for the counts (default: beside --out)")
    parser.add_argument("--format", default="", choices=("", *FORMATS), metavar="NAME", help=", ".join(FORMATS))
    parser.add_argument("--style", choices=("prose", "list", "claims"), help="of records that state none")
    parser.add_argument("--fields", nargs="+", default=[], metavar="OURS=FIELD", help="such as question=user_input")
    parser.add_argument("--refusals", nargs="+", default=[], metavar="TEXT", help="wordings of a log's refusals")
    parser.add_argument("--pool", metavar="FILE", help="more passages to draw distractors from (title, text)")
    parser.add_argument(
        "--passages", type=int, help="at most (default: a record's own; 5, as in the paper, where they are retrieved)"
    )
    parser.add_argument("--unanswerable", type=float, default=0.5, metavar="SHARE", help="default 0.5")
    parser.add_argument("--max-words", type=int, metavar="N", help="truncate passages to this many words")
    parser.add_argument("--source", help="name for ids and for metrics by source (default: the file's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label-with", metavar="NAME", help="a judge that labels every answer, such as lexical")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
