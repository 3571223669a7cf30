"""Answer questions, score the answers: `python launch/evaluate.py configs/models/tiny.toml [--section.key=value ...]`.

The held-out part of the data is asked; `--eval.split=all` asks a test file as a whole. `--model.init_from=FOLDER`
evaluates a model folder, or that of a run, instead of the model as it comes.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # as in launch/train.py, which says why

from grpo.config import describe, load
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.config.recipe import EVALUATION_READS, EvaluationRecipe

READ = {f"--{section}.{name}" for section, names in EVALUATION_READS.items() for name in names}


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        print(usage())
        return 0
    console = Console()
    try:
        recipe = load(EvaluationRecipe, argv)
        refuse_unread(argv)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # each of them would answer every question
            raise UserError("an evaluation is one process; start one: python launch/evaluate.py")
        with console.alive():
            console.status("loading torch")
            from launch.runs.evaluation import run_evaluation  # only after the recipe is known to be good

            run_evaluation(recipe, console)
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    return 0


def refuse_unread(argv: Sequence[str]) -> None:
    """UserError for an override of what only training reads. In a model's recipe it may stand, as it serves both."""
    for argument in argv:
        if argument.startswith("--") and (name := argument.partition("=")[0]) not in READ:
            section = name[2:].partition(".")[0]
            valid = EVALUATION_READS.get(section)
            known = (
                f"of [{section}] it reads {', '.join(valid)}" if valid else f"it reads {', '.join(EVALUATION_READS)}"
            )
            raise UserError(f"{argument}: an evaluation does not read this; {known}")


def usage() -> str:
    """The keys that an evaluation reads, with their defaults."""
    lines = describe(EvaluationRecipe).splitlines()
    headers = {f"[{section}]" for section in EVALUATION_READS}
    return "\n".join(line for line in lines if line in headers or line.strip().partition("=")[0] in READ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
