"""Several recipes one after another: the stages of a model, or an experiment of arms and seeds.

    python -m launch.pipeline configs/stage1.toml configs/stage2.toml -- configs/models/qwen3-8b.toml [--a.b=value ...]
    python -m launch.pipeline configs/experiments/stages.toml [--seeds=0,1] -- configs/models/qwen3-8b.toml [...]

Before `--` stand the recipes of the stages, or one experiment; after it the model's recipe and overrides for all runs.
Each run is a process of its own (scripts/train.sh, which reads GPUS and PORT) and starts from the model of the run
before it. A finished run is not repeated, so that the same command resumes after a kill. A stage with
`stage_end.when = "hand"` ends the pipeline. An experiment leaves a table, a plot and numbers in runs/EXPERIMENT-MODEL.
"""

import signal
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from pydantic import BaseModel, Field, model_validator
from rich.console import Console as Terminal

from grpo.checkpointing.stop_signal import SIGNALS
from grpo.config import load
from grpo.errors import EXIT_STOPPED, UserError
from grpo.telemetry.console import Console
from launch.config.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
TRAIN = str(ROOT / "scripts" / "train.sh")
OWN = ("run.name", "run.seed", "model.init_from")
"""The keys that the pipeline sets for each run of an experiment."""


class RunFailed(RuntimeError):
    """A run ended with an error, which it has printed itself; `code` is its exit status."""

    def __init__(self, folder: Path, code: int) -> None:
        super().__init__(f"{folder.name} ended with exit code {code}")
        self.code = code


class ArmRun(BaseModel, frozen=True, extra="forbid"):
    """One run of an arm; the same name in another arm is the same run."""

    name: str
    recipe: str
    arguments: tuple[str, ...] = ()


class Arm(BaseModel, frozen=True, extra="forbid"):
    """A chain of runs; the model of the last one is compared with those of the other arms."""

    name: str
    runs: tuple[ArmRun, ...] = Field(min_length=1)


class Experiment(BaseModel, frozen=True, extra="forbid"):
    """A file of configs/experiments; `arguments` hold for every run."""

    title: str
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    arguments: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Experiment":
        if len({arm.name for arm in self.arms}) < len(self.arms):
            raise ValueError("two arms have one name; give each its own")
        chains: dict[str, tuple[ArmRun, ...]] = {}
        for arm in self.arms:
            for number, run in enumerate(arm.runs, 1):
                if chains.setdefault(run.name, arm.runs[:number]) != arm.runs[:number]:
                    raise ValueError(f"the run {run.name!r} is two different ones; give each its own name")
        return self


@dataclass(frozen=True, slots=True)
class Job:
    """A run to make: the arguments of launch/train.py, and what they resolve to."""

    arguments: tuple[str, ...]
    recipe: Recipe

    @classmethod
    def of(cls, *arguments: str) -> "Job":
        return cls(arguments, load_recipe(arguments))

    @property
    def folder(self) -> Path:
        return Path(self.recipe.run.folder) / self.recipe.run_name

    def is_finished(self) -> bool:
        """Whether the run has left its model. UserError where the run there has another recipe."""
        from launch.runs.resume import check_same_recipe, has_finished  # loads torch

        if not has_finished(self.folder):
            return False
        check_same_recipe(self.recipe, self.folder)
        return True


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    console = Console()
    try:
        paths, seeds, shared = read_arguments(argv)
        if len(paths) == 1 and is_experiment(paths[0]):
            run_experiment(Path(paths[0]), seeds, shared, console)
        elif seeds:
            raise UserError("--seeds is for an experiment; valid for stages: --run.seed=N after --")
        else:
            run_stages(paths, shared, console)
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    except RunFailed as failed:
        console.line(f"stopped: {failed}; the same command resumes")
        return failed.code
    return 0


def read_arguments(argv: Sequence[str]) -> tuple[list[str], tuple[int, ...], list[str]]:
    """(recipes or experiment, seeds, shared arguments). UserError for anything else before `--`."""
    cut = argv.index("--") if "--" in argv else len(argv)
    paths, seeds = [], ()
    for argument in argv[:cut]:
        name, _, value = argument.partition("=")
        if name == "--seeds":
            try:
                seeds = tuple(dict.fromkeys(int(part) for part in value.split(",")))
            except ValueError:
                raise UserError(f"{argument}: expected whole numbers with commas, such as --seeds=0,1,2") from None
        elif argument.startswith("-"):
            raise UserError(f"{argument}: valid before --: --seeds=0,1; overrides stand after --")
        else:
            paths.append(argument)
    if not paths:
        raise UserError("no recipe is given; expected configs/stage1.toml configs/stage2.toml, or an experiment")
    return paths, seeds, list(argv[cut + 1 :])


def is_experiment(path: str) -> bool:
    try:
        return "arms" in tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # `load` says what is wrong with the file


def run_stages(recipes: Sequence[str], shared: Sequence[str], console: Console) -> None:
    jobs = plan_stages(recipes, shared)
    for job, after in zip(jobs, [*jobs[1:], None], strict=True):
        run(job, console)
        if after and job.recipe.stage_end.when == "hand":
            console.line(f"gate         by hand: python launch/train.py {' '.join(after.arguments)}")
            return


def plan_stages(recipes: Sequence[str], shared: Sequence[str]) -> list[Job]:
    """A job for each stage. UserError for any wrong recipe, before the first job runs.

    A shared `run.name` gets the stage behind it (`mine-stage1`); a shared `model.init_from` is for the first stage.
    """
    jobs: list[Job] = []
    for recipe in recipes:
        arguments = [recipe, *(a for a in shared if not (jobs and a.startswith("--model.init_from=")))]
        alone = load_recipe(arguments)
        if alone.run.name:
            arguments.append(f"--run.name={alone.run.name}-{alone.run.stage}")
        if jobs:
            arguments.append(f"--model.init_from={jobs[-1].folder}")
        job = Job.of(*arguments)
        if job.folder in [earlier.folder for earlier in jobs]:
            raise UserError(f"{recipe}: {job.folder} is the run of an earlier stage too; give each its own run.stage")
        job.is_finished()  # refuses the run of another recipe
        jobs.append(job)
    return jobs


def run_experiment(path: Path, seeds: Sequence[int], shared: Sequence[str], console: Console) -> None:
    """Make the runs of all arms and seeds, then report the last runs of the arms side by side."""
    experiment = load(Experiment, [str(path)])
    label = f"{path.stem}-{load_recipe(shared).model.label}"
    arms = {
        (arm.name, seed): plan_arm(experiment, arm, label, seed, shared)
        for seed in seeds or experiment.seeds
        for arm in experiment.arms
    }
    jobs = {job.arguments: job for chain in arms.values() for job in chain}
    finished = sum(job.is_finished() for job in jobs.values())
    console.line(f"experiment   {experiment.title}: {len(jobs)} runs, {finished} of them finished")
    for job in jobs.values():
        run(job, console)

    from eval.report.experiment import report  # imported now, since it loads numpy and matplotlib
    from launch.builders.rewards import make_judge

    folders: dict[str, list[Path]] = {arm.name: [] for arm in experiment.arms}
    for (name, _), chain in arms.items():
        folders[name].append(chain[-1].folder)
    out = next(iter(arms.values()))[-1].folder.parent / label
    Terminal(width=200).print(report(experiment.title, folders, out, partial(make_judge, console=console)))
    console.line(f"written      {out}: table.md, numbers.json, plot.png")


def plan_arm(experiment: Experiment, arm: Arm, label: str, seed: int, shared: Sequence[str]) -> list[Job]:
    """A job for each run of an arm. UserError where an override of the user would be overridden by the arm."""
    files = [argument for argument in shared if not argument.startswith("--")]
    overrides = [argument for argument in shared if argument.startswith("--")]
    jobs: list[Job] = []
    for planned in arm.runs:
        own = {argument.partition("=")[0] for argument in planned.arguments} | {f"--{key}" for key in OWN}
        if taken := sorted(own & {argument.partition("=")[0] for argument in overrides}):
            raise UserError(
                f"{taken[0]}: the experiment sets this itself, for its run {planned.name!r}; valid: other keys, "
                "--seeds=0,1 for seeds, or another experiment file"
            )
        arguments = [planned.recipe, *files, *experiment.arguments, *overrides, *planned.arguments]
        arguments += [f"--run.seed={seed}", f"--run.name={label}-{planned.name}-s{seed}"]
        if jobs:
            arguments.append(f"--model.init_from={jobs[-1].folder}")
        jobs.append(Job.of(*arguments))
    return jobs


def run(job: Job, console: Console) -> None:
    """Train unless the run is finished. RunFailed where it fails."""
    if job.is_finished():
        console.line(f"finished     {job.folder} exists already")
        return
    console.line(f"run          {job.folder}")
    if code := wait_for([TRAIN, *job.arguments]):
        raise RunFailed(job.folder, code)


def wait_for(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit status; requests to stop are passed on to it.

    A terminal sends Ctrl-C to both processes; SIGTERM and SIGUSR1 reach this one alone. A command that had finished
    before the request reached it gets the status of a stopped run, so that nothing follows it.
    """
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if child is not None and number != signal.SIGINT:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        child = subprocess.Popen(command)
        for number in received:  # those that came before there was a child
            if number != signal.SIGINT:
                child.send_signal(number)
        return child.wait() or (EXIT_STOPPED if received else 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
