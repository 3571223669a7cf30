"""Train through several stages: `python launch/stages.py configs/stage1.toml configs/stage2.toml -- MODEL.toml [...]`.

Before `--` the recipe of each stage, in order; after it what they share: the model's recipe, and overrides. Every stage
is a run of its own and starts from the model of the one before it. A stage ends after its last step, or earlier where
its gate opens; `stage_end.when = "hand"` ends the chain after it. Stages that are finished already are not run again.
`--gpus=N` before the recipes trains with a rank on each of N GPUs, `--port=P` is where they meet.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # as in launch/train.py, which says why

from grpo.config import load
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.chain import RunFailed, folder_of, is_finished, launcher, run
from launch.config.recipe import Recipe


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    console = Console()
    try:
        gpus, port, stages, shared = read_arguments(argv)
        runs = plan(stages, shared)
        for number, arguments in enumerate(runs):
            run(arguments, command=launcher(gpus, port), console=console)
            if number + 1 < len(runs) and load(Recipe, arguments).stage_end.when == "hand":
                console.line(f"gate         by hand: {by_hand(runs[number + 1])}")
                return 0
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    except RunFailed as failed:
        console.line(f"stopped: {failed}; the same command goes on from here")
        return failed.code
    return 0


def read_arguments(argv: Sequence[str]) -> tuple[int, int, list[str], list[str]]:
    """(GPUs, port, the stages' recipes, what they share). UserError for anything else."""
    before, shared = list(argv), []
    if "--" in before:
        cut = before.index("--")
        before, shared = before[:cut], before[cut + 1 :]
    numbers = {"--gpus": 0, "--port": 0}
    stages = []
    for argument in before:
        name, equals, value = argument.partition("=")
        if name in numbers and equals and value.isdigit():
            numbers[name] = int(value)
        elif argument.startswith("-"):
            raise UserError(f"{argument}: valid before --: --gpus=N, --port=N; overrides stand after it")
        else:
            stages.append(argument)
    if not stages:
        raise UserError("no stage is given; expected recipes such as configs/stage1.toml configs/stage2.toml")
    return numbers["--gpus"], numbers["--port"], stages, shared


def plan(stages: Sequence[str], shared: Sequence[str]) -> list[list[str]]:
    """The arguments of each stage's run. What is wrong with any of them is found before the first begins.

    A shared `run.name` gets the stage behind it, `mine-stage1`; the first stage starts at a shared `model.init_from`.
    """
    runs: list[list[str]] = []
    names: set[Path] = set()
    for number, stage in enumerate(stages):
        own = [argument for argument in shared if number == 0 or not argument.startswith("--model.init_from=")]
        recipe = load(Recipe, [stage, *own])
        arguments = [stage, *own]
        if recipe.run.name:
            arguments.append(f"--run.name={recipe.run.name}-{recipe.run.stage}")
        if number:
            arguments.append(f"--model.init_from={folder_of(load(Recipe, runs[-1]))}")
        folder = folder_of(load(Recipe, arguments))
        if folder in names:
            raise UserError(f"{stage}: {folder} is the run of an earlier stage too; give each its own run.stage")
        names.add(folder)
        is_finished(arguments)  # refuses the run of another recipe
        runs.append(arguments)
    return runs


def by_hand(arguments: Sequence[str]) -> str:
    """The line that begins the next stage."""
    return f"python launch/train.py {' '.join(arguments)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
