"""Train one stage: `python launch/train.py configs/stage1.toml configs/models/tiny.toml [--section.key=value ...]`."""

import os
import sys
from pathlib import Path

# The checkout itself comes first on the path instead of launch/: it works uninstalled, ours wins over a namesake in the
# environment, and nothing in launch/ can shadow a library.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from grpo.config import describe, load
from grpo.runlog import Console
from grpo.types import EngineLost, InputError, StaleRollout
from launch.recipe import Recipe


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        print(describe(Recipe))
        return 0
    console = Console()
    try:
        recipe = load(Recipe, [argument for argument in argv if not argument.startswith("--local_rank")])
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        if ranks > 1:  # each of them would train a model of its own, and say nothing
            raise InputError(
                f"the policy engine is for one process, and {ranks} were started; start one: python launch/train.py"
            )
        with console.alive():
            console.status("loading torch")
            from launch.stage import run_stage, run_warm_up  # only after the recipe is known to be good

            if recipe.run.stage == "sft":
                run_warm_up(recipe, console)
            else:
                run_stage(recipe, console)
    except InputError as error:
        console.line(f"error: {error}")
        return 2
    except (EngineLost, StaleRollout) as error:
        console.line(f"stopped: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
