"""Train one stage: `python launch/train.py configs/stage1.toml configs/models/tiny.toml [--section.key=value ...]`.

On several GPUs, `deepspeed launch/train.py ...` with the same arguments.
"""

import sys
from functools import partial
from pathlib import Path

# The checkout itself comes first on the path instead of launch/: it works uninstalled, ours wins over a namesake in the
# environment, and nothing in launch/ can shadow a library.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from grpo.config import describe
from grpo.distributed.communicator import Communicator
from grpo.telemetry.console import Console
from launch.config.recipe import Recipe, load_recipe
from launch.runs.ranks import run_on_ranks


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        print(describe(Recipe))
        return 0
    return run_on_ranks(partial(train, argv))


def train(argv: list[str], comm: Communicator, console: Console) -> int:
    """Train by the recipe, on every rank; returns the exit status."""
    recipe = load_recipe([argument for argument in argv if not argument.startswith("--local_rank")])
    with console.alive():
        console.status("loading torch")
        from launch.runs.grpo import train_grpo  # only after the recipe is known to be valid
        from launch.runs.sft import train_sft

        algorithms = {"grpo": train_grpo, "sft": train_sft}
        algorithms[recipe.run.algorithm](recipe, console, comm)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
