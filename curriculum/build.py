"""Make grounded examples of a file of question-answer pairs (`curriculum.builder`).

python -m curriculum.build QUESTIONS.json --out EXAMPLES.jsonl [--pool PASSAGES.json] [--nli NAME] ...
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from curriculum.builder import build_from_qa
from grpo.data.example import to_record
from grpo.data.files import check_new_file, write_jsonl
from grpo.errors import UserError
from rewards.judges.load import load_judge


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m curriculum.build", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("questions", help="question-answer pairs: NQ-open-oracle, HotpotQA, MuSiQue, or a RAG log")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="a new file for the examples")
    parser.add_argument("--report", metavar="FILE.json", help="a new file for the counts (default: beside --out)")
    parser.add_argument("--pool", metavar="FILE", help="more passages to draw distractors from (title, text)")
    parser.add_argument("--passages", type=int, default=5, help="passages of an example (default 5, as in the paper)")
    parser.add_argument("--unanswerable", type=float, default=0.5, metavar="SHARE", help="default 0.5")
    parser.add_argument("--max-words", type=int, metavar="N", help="truncate passages to this many words")
    parser.add_argument("--source", default="qa", help="name for ids and for metrics by source (default qa)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nli", metavar="NAME", help="a judge that must agree with what is spelled, such as lexical")
    args = parser.parse_args(argv)
    out = Path(args.out)
    report_file = Path(args.report) if args.report else out.with_suffix(".report.json")
    try:
        check_new_file(out)
        check_new_file(report_file, suffix=".json")
        judge = load_judge(args.nli, tell=print) if args.nli else None
        examples, report = build_from_qa(
            args.questions,
            passages=args.passages,
            unanswerable=args.unanswerable,
            seed=args.seed,
            max_words=args.max_words,
            source=args.source,
            pool=args.pool,
            entails=judge.entails if judge else None,
        )
        write_jsonl(out, map(to_record, examples))
        report_file.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    except UserError as error:
        print(f"error: {error}")
        return 2
    print(report)
    print(f"written      {out}, and the counts: {report_file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
