"""Train one stage: `python launch/train.py configs/stage1.toml configs/models/tiny.toml [--section.key=value ...]`.

On several GPUs, `deepspeed launch/train.py ...` with the same arguments.
"""

import os
import sys
from pathlib import Path

# The checkout itself comes first on the path instead of launch/: it works uninstalled, ours wins over a namesake in the
# environment, and nothing in launch/ can shadow a library.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from grpo.comm import Alone, Comm, ending
from grpo.config import describe, load
from grpo.runlog import Console
from grpo.types import BadNumbers, EngineLost, InputError, StaleRollout, Stopped
from launch.recipe import Recipe


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        print(describe(Recipe))
        return 0
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return train_together(argv)
        train(argv, Alone(), Console())
    except (BadNumbers, EngineLost, InputError, StaleRollout, Stopped) as error:
        code, text = ending(error)
        Console().line(text)
        return code
    return 0


def train_together(argv: list[str]) -> int:
    """As one of several ranks: the same recipe everywhere, and rank 0 speaks."""
    from grpo.ranks import OtherRankFailed, joined, leads_node

    try:
        # Before the recipe is read: also an error of one rank alone, such as a file that its node lacks, ends all.
        with joined() as comm, open(os.devnull, "w", encoding="utf-8") as nowhere:
            train(argv, comm, Console() if comm.rank == 0 else Console(nowhere))
    except OtherRankFailed as other:
        mine = ending(other.__cause__)[1] if other.__cause__ else ""
        if leads_node() and mine != other.failure.text:  # else it has been said
            print(f"stopped: {other}", file=sys.stderr)
        return other.failure.code
    return 0


def train(argv: list[str], comm: Comm, console: Console) -> None:
    recipe = load(Recipe, [argument for argument in argv if not argument.startswith("--local_rank")])
    with console.alive():
        console.status("loading torch")
        from launch.heap import keep_freed_memory
        from launch.precision import device
        from launch.stage import run_stage  # only after the recipe is known to be good
        from launch.warm_up import run_warm_up

        if device() == "cpu":
            keep_freed_memory()
        if recipe.run.stage == "sft":
            run_warm_up(recipe, console, comm)
        else:
            run_stage(recipe, console, comm)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
