"""Agreement of our answer matcher with human judges: `python -m benchmarks.human_agreement TQ.json.gz`.

The file is one of EVOUNA's (QA-Eval): questions with accepted answers, and the answers of five systems with human
judgements. Improper questions and answers without a judgement are left out and counted. The 95 % intervals resample
questions with all their answers.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console as Terminal
from rich.table import Table

from eval.bootstrap import Floats, intervals
from grpo.data.files import Record, read_records, text_field
from grpo.data.text import contains
from grpo.errors import UserError

SYSTEMS = ("fid", "gpt35", "chatgpt", "gpt4", "newbing")
COUNTS = ("both right", "both wrong", "matcher only", "judge only")


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with its human judgement; `question` numbers its record."""

    question: int
    system: str
    text: str
    aliases: tuple[str, ...]
    right: bool


def read_judged(path: str) -> tuple[list[Judged], int, int]:
    """(judged answers, number of improper questions, number of answers without a judgement) of a file."""
    judged: list[Judged] = []
    improper = without = 0
    for number, (place, record) in enumerate(read_records(path)):
        if record.get("improper") is True:
            improper += 1
            continue
        aliases = tuple(part.strip() for part in text_field(place, record, "golden_answer").split("/") if part.strip())
        for system in SYSTEMS:
            if record.get(f"judge_{system}") is None or record.get(f"answer_{system}") is None:
                without += 1
                continue
            text = text_field(place, record, f"answer_{system}", blank=True)
            judged.append(Judged(number, system, text, aliases, _judgement(place, record, f"judge_{system}")))
    if not judged:
        raise UserError(f"{path}: no judged answers; expected answer_... and judge_... of {', '.join(SYSTEMS)}")
    return judged, improper, without


def _judgement(place: str, record: Record, field: str) -> bool:
    value = record[field]
    if not isinstance(value, bool):
        raise UserError(f"{place}: {field} is {value!r:.60}; expected true or false")
    return value


def counts(judged: Sequence[Judged]) -> Floats:
    """[I, 4]: the numbers of each question's answers by COUNTS."""
    places = {question: place for place, question in enumerate(dict.fromkeys(one.question for one in judged))}
    counts_IK = np.zeros((len(places), len(COUNTS)))
    for one in judged:
        says_so = contains(one.text, one.aliases)
        kind = (0 if one.right else 2) if says_so else (3 if one.right else 1)
        counts_IK[places[one.question], kind] += 1
    return counts_IK


def agreement(counts_RK: Floats) -> dict[str, Floats]:
    """Percent of agreement, and Cohen's kappa (1: always, 0: no better than chance), of rows of sums: [R, K] -> [R]."""
    counts_RK = np.atleast_2d(counts_RK)
    both, neither, ours, theirs = counts_RK.T
    total = counts_RK.sum(1)
    agreed = (both + neither) / total
    chance = ((both + ours) * (both + theirs) + (neither + theirs) * (neither + ours)) / total**2
    kappa = np.divide(agreed - chance, 1 - chance, out=np.ones_like(agreed), where=chance < 1)
    return {"agreement": 100 * agreed, "kappa": kappa}


def table(judged: Sequence[Judged]) -> Table:
    """A row for all answers, and for each system's answers."""
    shown = Table(title=f"{len(judged):,} judged answers", title_justify="left", box=box.SIMPLE)
    for column in ("answers of", "agreement, % [95 %]", "kappa", *COUNTS):
        shown.add_column(column, justify="left" if column == "answers of" else "right", no_wrap=True)
    for system in ("all", *SYSTEMS):
        some = [one for one in judged if system in ("all", one.system)]
        if not some:
            continue
        counts_IK = counts(some)
        found = agreement(counts_IK.sum(0))
        low, high = intervals(counts_IK, agreement)["agreement"]
        numbers = [f"{count:,.0f}" for count in counts_IK.sum(0)]
        percent = f"{found['agreement'][0]:.2f} [{low:.2f}, {high:.2f}]"
        shown.add_row(system, percent, f"{found['kappa'][0]:.3f}", *numbers)
    return shown


def main(argv: Sequence[str]) -> int:
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.human_agreement", allow_abbrev=False, description=f"{first}{rest}"
    )
    parser.add_argument("file", help="question, golden_answer, and answer_... and judge_... of each system")
    try:
        judged, improper, without = read_judged(parser.parse_args(argv).file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Terminal(width=150).print(table(judged))
    print(f"left out: {improper} questions marked as improper, {without} answers without a judgement")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
