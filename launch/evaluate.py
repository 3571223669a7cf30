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
from launch.config.recipe import Recipe


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        print(describe(Recipe, ("run", "model", "data", "policy", "rollout", "eval")))
        return 0
    console = Console()
    try:
        recipe = load(Recipe, argv, check=Recipe.check_evaluation)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
