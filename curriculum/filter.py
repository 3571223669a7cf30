"""Keep the questions that can teach: `python -m curriculum.filter RECIPE.toml ... --keep 300 --out kept.jsonl`.

Samples every training question of the recipes `--samples` times with the model that training would start from, on the
recipe's rollout engine, and keeps those with the largest p(1 - p). The file is data for training: `DATA=kept.jsonl`.
What was sampled is kept in `--cache`, so that the same command goes on after a kill. Overrides as in training.
"""

import argparse
import sys
from collections.abc import Sequence

from grpo.errors import UserError
from grpo.telemetry.run_logger import Console


def main(argv: Sequence[str]) -> int:
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m curriculum.filter", allow_abbrev=False, description=f"{first}{rest}"
    )
    parser.add_argument("--keep", type=int, default=2500, metavar="N", help="questions to keep at most (default 2500)")
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="samples of each question (default 16)")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="a new file for the kept questions")
    parser.add_argument("--cache", metavar="FILE", help="where tallies are kept (default: beside --out, with .cache)")
    arguments, recipes = parser.parse_known_args(argv)
    console = Console()
    try:
        if arguments.keep < 1 or arguments.samples < 2:
            raise UserError(
                f"--keep {arguments.keep} --samples {arguments.samples}; valid: 1 or more to keep, 2 or more samples"
            )
        from launch.runs.difficulty import run_filter  # the program knows the engines; the library beside it does not

        run_filter(arguments, recipes, console)
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
