"""How often a judge says yes to texts that people have judged: `python -m benchmarks.judge FILE... --nli lexical`.

Each file has one of three forms, told by its fields:

* `passages`, `answer`, `human` (ClapNQ as a log of a RAG system): the sentences of the answers that people wrote,
  against their own passage, the passages of OTHERS other questions, and their own after a change of a number;
* `premise`, `hypothesis`, `label` (SNLI);
* `claims` with `evidence` and `support` (ExpertQA): claims whose support experts judged.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from grpo.data.files import Record, read_records
from grpo.data.sentences import statements
from grpo.data.text import drop_footnotes, words
from grpo.errors import UserError
from rewards.judges.base import ENTAILMENT_THRESHOLD, Pair
from rewards.judges.load import load_judge

OTHERS = 10


def labelled_pairs(rows: Sequence[Record]) -> list[tuple[str, Pair]]:
    """(what people said, premise and hypothesis) of the records of a file."""
    if "premise" in rows[0]:
        return [(str(row["label"]), (row["premise"], row["hypothesis"])) for row in rows]
    if "claims" in rows[0]:
        claims = [claim for row in rows for claim in row["claims"] if claim["evidence"]]
        return [
            (f"support: {claim['support']}", (" ".join(claim["evidence"]), drop_footnotes(claim["text"])))
            for claim in claims
        ]
    answered = [row for row in rows if row["human"]["answerable"]]
    shown = ["\n".join(f"{p['title']}\n{p['text']}" for p in row["passages"]) for row in answered]
    pairs: list[tuple[str, Pair]] = []
    for n, row in enumerate(answered):
        for text, _ in statements(row["answer"])[0]:
            pairs.append(("own passage", (shown[n], text)))
            pairs += [
                ("passage of another", (shown[(n + k) % len(shown)], text))
                for k in range(1, min(OTHERS + 1, len(shown)))
            ]
            if re.search(r"\d", text):
                pairs.append(("a number changed", (shown[n], _another_number(text, shown[n]))))
    return pairs


def _another_number(text: str, passage: str) -> str:
    """The text with its first number raised to one that the passage does not have."""
    taken = words(passage).split()

    def raised(digits: re.Match[str]) -> str:
        number = int(digits[0])
        return next(str(number + more) for more in range(1, 1000) if str(number + more) not in taken)

    return re.sub(r"\d+", raised, text, count=1)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--nli", default="lexical", metavar="NAME", help="lexical, token_subset, or an NLI model")
    options = parser.parse_args(argv)
    try:
        judge = load_judge(options.nli, tell=print)
        for file in options.files:
            print(f"{file}, judged by {options.nli}")
            pairs = labelled_pairs([record for _, record in read_records(file)])
            yes = [p > ENTAILMENT_THRESHOLD for p in judge.entails([pair for _, pair in pairs])]
            for name in dict.fromkeys(name for name, _ in pairs):
                said = [found for (other, _), found in zip(pairs, yes, strict=True) if other == name]
                print(f"  {name:20} {sum(said):5} of {len(said):5} supported, {100 * sum(said) / len(said):5.1f} %")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
