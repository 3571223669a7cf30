"""Run an experiment's recipes one after another, then compare: `python -m launch.experiment NAME [--model M] [...]`.

NAME is a file of configs/experiments: arms, each a chain of runs of which every one starts from the model of the one
before, and seeds. Runs that are finished are not run again, so that the same command goes on after a kill; a run that
two arms share is made once. The last runs of all arms are measured on the same held-out questions; table, plot and
numbers go to a folder beside the runs. Overrides, `--section.key=value`, hold for every run.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator
from rich.console import Console as Terminal

from grpo.config import load
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.chain import ROOT, RunFailed, folder_of, is_finished, launcher, run
from launch.config.recipe import Recipe

FOLDER = ROOT / "configs" / "experiments"


class Planned(BaseModel):
    """One run of an arm; the same name in another arm is the same run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    recipe: str
    arguments: tuple[str, ...] = ()


class Arm(BaseModel):
    """What is compared with the other arms: the model that the last of these runs leaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    runs: tuple[Planned, ...] = Field(min_length=1)


class Experiment(BaseModel):
    """A file of configs/experiments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    arguments: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Experiment":
        if len({arm.name for arm in self.arms}) < len(self.arms):
            raise ValueError("two arms have one name; each needs its own")
        chains: dict[str, tuple[Planned, ...]] = {}
        for arm in self.arms:
            for number, planned in enumerate(arm.runs, 1):
                if chains.setdefault(planned.name, arm.runs[:number]) != arm.runs[:number]:
                    raise ValueError(f"the run {planned.name!r} is two different ones; give each its own name")
        return self


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.experiment", allow_abbrev=False, description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("name", help=f"one of {', '.join(names())}, or a file like them")
    parser.add_argument("--model", default="smollm2-135m", help="of configs/models (default smollm2-135m)")
    parser.add_argument("--seeds", help="such as 0,1 in place of the experiment's own")
    parser.add_argument("--gpus", type=int, default=0, help="ranks of each run, one on each GPU (default: one process)")
    wanted, overrides = parser.parse_known_args(argv)
    console = Console()
    try:
        experiment = find(wanted.name)
        if wanted.seeds:
            experiment = experiment.model_copy(update={"seeds": read_seeds(wanted.seeds)})
        label = f"{Path(wanted.name).stem}-{wanted.model}"
        shared = [f"configs/models/{wanted.model}.toml", *experiment.arguments, *overrides]
        folders = run_all(experiment, label, shared, console, gpus=wanted.gpus)
        from eval.report.experiment import report  # imported now: it loads numpy and matplotlib
        from launch.builders.models import make_judge

        out = folders[experiment.arms[0].name][0].parent / label
        Terminal(width=200).print(report(experiment.title, folders, out, partial(make_judge, console=console)))
        console.line(f"written      {out}: table.md, numbers.json, plot.png")
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    except RunFailed as failed:
        console.line(f"stopped: {failed}; the same command goes on from here")
        return failed.code
    return 0


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(name: str) -> Experiment:
    """The experiment of that name, or in that file."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"no experiment {name!r}; there are {', '.join(names())}, or give a .toml file")
    return load(Experiment, [str(path)])


def read_seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UserError(f"--seeds {text}: expected whole numbers with commas between them, such as 0,1,2") from None


def run_all(
    experiment: Experiment, label: str, shared: Sequence[str], console: Console, *, gpus: int = 0
) -> Mapping[str, list[Path]]:
    """The last run folder of each arm and seed, after all runs have been made. What is wrong with any of the recipes is
    found before the first begins."""
    chains = {(arm.name, seed): chain(arm, label, seed, shared) for seed in experiment.seeds for arm in experiment.arms}
    needed = {tuple(arguments) for runs in chains.values() for arguments in runs}
    finished = sum(is_finished(arguments) for arguments in needed)
    console.line(f"experiment   {experiment.title}: {len(needed)} runs, {finished} of them finished")
    folders: dict[str, list[Path]] = {arm.name: [] for arm in experiment.arms}
    for (name, _), runs in chains.items():
        for arguments in runs:
            last = run(arguments, command=launcher(gpus), console=console)
        folders[name].append(last)
    return folders


def chain(arm: Arm, label: str, seed: int, shared: Sequence[str]) -> list[list[str]]:
    """The arguments of each run of an arm."""
    runs: list[list[str]] = []
    for planned in arm.runs:
        arguments = [planned.recipe, *shared, *planned.arguments]
        arguments += [f"--run.seed={seed}", f"--run.name={label}-{planned.name}-s{seed}"]
        if runs:
            arguments.append(f"--model.init_from={folder_of(load(Recipe, runs[-1]))}")
        load(Recipe, arguments)
        runs.append(arguments)
    return runs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
