"""The supervised steps before GRPO, and what they have in common with it before the first one."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from curriculum.samplers import EpochSampler
from grpo.checkpointing.export import save_model_folder
from grpo.config import dump
from grpo.distributed.communicator import Comm
from grpo.errors import UserError
from grpo.losses import sft_loss
from grpo.policy.optimizer import AdamWConfig
from grpo.supervised import fit, sft_batch
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger, refuse_existing
from launch.builders import assemble
from launch.builders.metering import make_meter
from launch.builders.models import locate
from launch.config.recipe import Recipe
from launch.runs.atomic_directory import beside
from launch.runs.lineage import write_stages


def run_warm_up(recipe: Recipe, console: Console, comm: Comm, *, questions: assemble.Questions | None = None) -> Path:
    """The warmed-up model folder of this recipe, made if it is not there yet."""
    if not recipe.sft.steps:
        raise UserError(
            "sft.steps = 0: this model's recipe asks for no warm-up; give a number of steps, 24 for example"
        )
    questions = questions or assemble.load_questions(recipe, console)
    folder = assemble.warm_up_folder(recipe, questions)
    if comm.lead(lambda: _has_warm_up(recipe, folder)):
        console.line(f"warm-up      {folder / 'model'} is there already")
        return folder / "model"
    assemble.check_ranks(recipe, comm.world, warm_up=True)
    base = comm.first(lambda: locate(recipe.model.name, console=console))
    speech = assemble.make_speech(recipe, base, console)
    check_lengths(speech, questions, console)
    w = recipe.sft
    console.line(f"warm-up      {w.steps} supervised steps of {w.examples_per_step} gold answers -> {folder / 'model'}")
    optim = AdamWConfig(lr=w.lr, schedule="linear", warmup_ratio=0.1)
    console.line(f"loading      {base}")
    meter = make_meter(recipe, base)
    policy = assemble.make_policy(recipe, base, optim=optim, updates=w.steps, console=console, comm=comm, meter=meter)
    # Built beside its final place and renamed when it is whole, so that a killed warm-up is never taken for a model.
    with _building(folder, comm) as work:
        comm.lead(lambda: _describe_run(recipe, work, ("sft",)))
        with open_log(recipe, work, folder.name, w.steps, console, comm, meter=meter) as log:
            order = EpochSampler(questions.warm_up, seed=w.seed, in_order=True)
            fit(
                lambda step: sft_batch([speech.gold(each) for each in order.next_batch(w.examples_per_step)], comm),
                steps=w.steps,
                policy=policy,
                loss=sft_loss,
                comm=comm,
                log=log,
            )
            save_model_folder(policy, speech.tokenizer, work / "model", comm)
            comm.lead(lambda: write_stages(work / "model", ("sft",)))
        comm.lead(lambda: work.rename(folder))
    return folder / "model"


def _has_warm_up(recipe: Recipe, folder: Path) -> bool:
    """Whether the warm-up's model is in its folder; UserError where something else is."""
    if recipe.run.stage == "sft" and recipe.run.name:
        refuse_existing(folder)
    if folder.exists() and not (folder / "model").is_dir():
        raise UserError(f"{folder}: a warm-up without its model; remove this folder, and it is made again")
    return folder.exists()


@contextmanager
def _building(folder: Path, comm: Comm) -> Iterator[Path]:
    """A new folder beside `folder`, the same on all ranks; gone at the end unless it was renamed."""
    with ExitStack() as stack:
        yield comm.lead(lambda: stack.enter_context(beside(folder)))


def _describe_run(recipe: Recipe, folder: Path, stages: tuple[str, ...]) -> None:
    """What the run was asked, and what its models have been through."""
    assemble.save_recipe(recipe, folder)
    write_stages(folder, stages)


def open_log(
    recipe: Recipe, folder: Path, name: str, steps: int, console: Console, comm: Comm, **more: Any
) -> RunLogger:
    """Of a run of that many steps; rank 0 writes it."""
    return RunLogger(
        folder,
        name=name,
        steps=steps,
        console=console,
        project=recipe.run.project,
        settings={"recipe": dump(recipe)},
        rollouts_every=recipe.run.rollouts_every,
        writes=comm.rank == 0,
        **more,
    )


def check_lengths(speech: assemble.Speech, questions: assemble.Questions, console: Console) -> None:
    """Render every prompt once now: one that is too long must not be found at step 900. And say so when many gold
    answers could not be written within the limit: such completions count as malformed."""
    for example in (*questions.train, *questions.warm_up, *questions.held_out):
        speech.render(example)
    room = speech.recipe.sampling.max_tokens
    lengths = sorted(len(speech.gold(example).completions[0].token_ids) for example in questions.train[:500])
    longer = sum(length > room for length in lengths) / len(lengths)
    if longer > 0.2:
        fits = lengths[int(0.9 * (len(lengths) - 1))]
        console.line(
            f"warning: {longer:.0%} of the gold answers are longer than sampling.max_tokens = {room}; "
            f"nine of ten fit into {fits}"
        )
