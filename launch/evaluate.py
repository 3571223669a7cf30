"""Sample answers and score them: `python launch/evaluate.py configs/models/tiny.toml [--section.key=value ...]`.

Asks the held-out questions of the data; `--eval.split=all` asks all of a test file. `--model.init_from=FOLDER`
evaluates a run or a model folder instead of the base model. For a run, or where `runs/NAME/recipe.toml` is given, the
recipe of the run holds, and its own model is evaluated.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # as in launch/train.py, which says why

from grpo.config import describe
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.config.recipe import DataConfig, Recipe, load_recipe

READS = (
    *("model", "eval", "run.name", "run.folder", "policy.dtype"),
    *(f"rollout.{key}" for key in ("engine", "max_num_seqs", "cpu_kv_cache_gib", "tensor_parallel")),
    *(f"data.{key}" for key in DataConfig.model_fields if key not in ("unanswerable", "mixture")),
)
"""Sections and keys that may be overridden. A recipe may have others, which are for training."""


PAPER = (
    *("--data.passages=5", "--data.max_words=0", "--eval.split=all", "--eval.questions=0", "--eval.shots=0"),
    *("--data.format=", "--data.fields=", "--data.style=", "--data.gold=[]"),
    *("--data.distractors=0", "--data.without_support=false", "--data.shuffle=false"),
)
"""Overrides of `--data.source=trust-score`: all questions, each over the first 5 of its 100 documents, as they are. The
fields and style of another file, which a run's recipe may have, are not those of these files."""


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        print(describe(Recipe, READS))
        return 0
    console = Console()
    try:
        recipe = evaluation_recipe(argv)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # every rank would answer every question
            raise UserError("an evaluation is one process; start one: python launch/evaluate.py")
        with console.alive():
            console.status("loading torch")
            from launch.runs.evaluation import run_evaluation  # imported after the recipe is known to be valid

            run_evaluation(recipe, console)
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    return 0


def evaluation_recipe(argv: Sequence[str]) -> Recipe:
    """The recipe from files and overrides, and between them the recipe of the run that is evaluated, if it is a run.

    UserError where nothing says which questions to ask.
    """
    files = [argument for argument in argv if not argument.startswith("--")]
    overrides = [argument for argument in argv if argument.startswith("--")]
    given = load_recipe(argv)
    for override in overrides:
        key = override[2:].partition("=")[0].replace("-", "_").replace(".no_", ".")
        if not {key, key.partition(".")[0]} & {*READS}:
            raise UserError(f"{override}: an evaluation does not read {key}; it reads {', '.join(READS)}")
    init_from = Path(given.model.init_from)
    earlier_stage = Path(given.run.folder) / f"{given.model.init_from}-{given.model.label}"
    for start in (init_from, earlier_stage, *(Path(file).parent for file in files)):
        if run := run_of(start):
            model = start if start == init_from else run
            files += [str(run / "recipe.toml"), f"--model.init_from={model}", "--run.name="]
            break
    as_in_the_paper = PAPER if given.data.is_trust_score else ()
    recipe = load_recipe([*files, *as_in_the_paper, *overrides], check=Recipe.check_evaluation)
    if "source" not in recipe.data.model_fields_set:
        raise UserError(
            "no questions to ask; valid: --data.source=FILE (.json, .jsonl, .csv, .tsv), hub:NAME[:SPLIT] or world "
            "(make: DATA=...), or a run, whose questions are asked: --model.init_from=runs/NAME (make: CHECKPOINT=...)"
        )
    return recipe


def run_of(start: Path) -> Path | None:
    """The run folder that `start` is, or that has the model folder `start` in it; None for anything else."""
    folders = (start, *start.absolute().parents[:3]) if start.exists() else ()
    for folder in folders:  # as deep as runs/NAME/checkpoints/step-4/model
        if (folder / "recipe.toml").is_file() and (folder / "model").is_dir():
            return folder
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
