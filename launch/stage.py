"""One stage of training from a recipe: plan, questions, warm-up where it is missing, before, GRPO, after."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console as Terminal

from curriculum.sampler import Epochs
from eval.live import Live
from grpo.checkpoint import save_model_folder
from grpo.comm import Comm
from grpo.config import dump
from grpo.loop import train, warm_up
from grpo.meter import Meter
from grpo.objective import sft_loss
from grpo.policy.base import PolicyEngine
from grpo.policy.schedule import Optim
from grpo.runlog import Console, RunLog, make_run_folder, refuse_existing
from grpo.types import InputError
from launch import assemble
from launch.engines import choose_rollout, make_rollout
from launch.metering import make_meter
from launch.models import locate, make_judge
from launch.plan import announce, batch_plan, devices_at_hand, make_plan
from launch.recipe import Recipe
from launch.shapes import NotCounted
from launch.watching import HeldOut, Watcher, check_best_by, show_table
from rewards.audit import audit, table
from rewards.compose import GroupScorer, compose, load_own
from rewards.entailment import Verifier, check_name


def run_stage(recipe: Recipe, console: Console, comm: Comm) -> Path:
    """Train, and return the run folder. Everything the user can get wrong is found before a model is loaded."""
    folder = Path(recipe.run.folder) / recipe.run_name
    comm.lead(lambda: refuse_existing(folder))
    assemble.check_ranks(recipe, comm.world, warm_up=False)
    questions = assemble.load_questions(recipe, console)
    steps = recipe.steps(len(questions.train))
    comm.lead(lambda: _announce_plans(recipe, console, comm, questions=len(questions.train)))
    warn_of_other_distributions(recipe, console)
    check_best_by(recipe, questions.held_out)
    score, judge = _audited_judges(recipe, console, comm)
    base = _starting_model(recipe, console, comm, questions)
    engine = choose_rollout(recipe, base, console)
    speech = assemble.make_speech(recipe, base, console)
    _check_lengths(speech, questions, console)

    cfg = assemble.loop_settings(recipe, steps=steps)
    meter = make_meter(recipe, base)
    policy = _policy(recipe, base, updates=steps * cfg.updates_per_step, console=console, comm=comm, meter=meter)
    rollout = make_rollout(engine, recipe, base, speech, console)
    comm.lead(lambda: _make_run_folder(recipe, folder))
    log = _open_log(recipe, folder, steps, console, comm, meter=meter)
    held_out = HeldOut(
        recipe=recipe,
        examples=questions.held_out,
        policy=policy,
        rollout=rollout,
        speech=speech,
        log=log,
        comm=comm,
        live=Live(judge, reasoning=recipe.model.reasoning),
    )
    before = held_out.measure("before", version=0)
    train(
        cfg,
        policy=policy,
        rollout=rollout,
        curriculum=Epochs(questions.train, seed=recipe.run.seed),
        score=score,
        render=speech.render,
        comm=comm,
        log=log,
        watch=Watcher(held_out, folder, every=recipe.eval.every, best_by=recipe.eval.best_by, score=score),
    )
    save_model_folder(policy, speech.tokenizer, folder / "model", comm)
    console.line(f"model        {folder / 'model'}")
    after = held_out.measure("after", version=steps)
    if questions.held_out and comm.rank == 0:
        show_table(before, after, title=f"{recipe.run_name}: {len(questions.held_out)} held-out questions, percent")
    log.close()
    return folder


def run_warm_up(recipe: Recipe, console: Console, comm: Comm, *, questions: assemble.Questions | None = None) -> Path:
    """The warmed-up model folder of this recipe, made if it is not there yet."""
    if not recipe.warmup.steps:
        raise InputError(
            "warmup.steps = 0: this model's recipe asks for no warm-up; give a number of steps, 24 for example"
        )
    questions = questions or assemble.load_questions(recipe, console)
    folder = assemble.warm_up_folder(recipe, questions)
    if comm.lead(lambda: _has_warm_up(recipe, folder)):
        console.line(f"warm-up      {folder / 'model'} is there already")
        return folder / "model"
    assemble.check_ranks(recipe, comm.world, warm_up=True)
    base = comm.first(lambda: locate(recipe.model.name, console=console))
    speech = assemble.make_speech(recipe, base, console)
    _check_lengths(speech, questions, console)
    w = recipe.warmup
    console.line(f"warm-up      {w.steps} supervised steps of {w.examples_per_step} gold answers -> {folder / 'model'}")
    optim = Optim(lr=w.lr, schedule="linear", warmup=0.1)
    console.line(f"loading      {base}")
    meter = make_meter(recipe, base)
    policy = assemble.make_policy(recipe, base, optim=optim, updates=w.steps, console=console, comm=comm, meter=meter)
    # Built beside its final place and renamed when it is whole, so that a killed warm-up is never taken for a model.
    with _building(folder, comm) as work:
        comm.lead(lambda: assemble.save_recipe(recipe, work))
        log = _open_log(recipe, work, w.steps, console, comm, name=folder.name, meter=meter)
        warm_up(
            steps=w.steps,
            examples_per_step=w.examples_per_step,
            policy=policy,
            curriculum=Epochs(questions.warm_up, seed=w.seed, in_order=True),
            gold=speech.gold,
            loss=sft_loss,
            comm=comm,
            log=log,
        )
        save_model_folder(policy, speech.tokenizer, work / "model", comm)
        log.close()
        comm.lead(lambda: work.rename(folder))
    return folder / "model"


def _announce_plans(recipe: Recipe, console: Console, comm: Comm, *, questions: int) -> None:
    """The plans of batches and of memory, before anything heavy loads; InputError with the nearest that fits."""
    console.line(batch_plan(recipe, questions=questions, ranks=comm.world))
    nodes = max(1, comm.world // int(os.environ.get("LOCAL_WORLD_SIZE", comm.world)))
    try:
        plan = make_plan(recipe, devices_at_hand(per_node=comm.world // nodes, nodes=nodes))
    except NotCounted as error:  # what cannot be counted may still be trained
        console.line(f"memory plan  none: {error}")
        return
    announce(plan)


def _has_warm_up(recipe: Recipe, folder: Path) -> bool:
    """Whether the warm-up's model is in its folder; InputError where something else is."""
    if recipe.run.stage == "sft" and recipe.run.name:
        refuse_existing(folder)
    if folder.exists() and not (folder / "model").is_dir():
        raise InputError(f"{folder}: a warm-up without its model; remove this folder, and it is made again")
    return folder.exists()


@contextmanager
def _building(folder: Path, comm: Comm) -> Iterator[Path]:
    """A new folder beside `folder`, the same on all ranks; gone at the end unless it was renamed."""

    def make() -> Path:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder.parent, prefix=".sft-"))

    holder = comm.lead(make)
    work = holder / "run"
    comm.lead(work.mkdir)
    try:
        yield work
    finally:
        if comm.rank == 0:
            shutil.rmtree(holder)


def _make_run_folder(recipe: Recipe, folder: Path) -> None:
    make_run_folder(folder)
    assemble.save_recipe(recipe, folder)


def warn_of_other_distributions(recipe: Recipe, console: Console) -> None:
    """Say what other sampling settings than 1 and 1 do: log-probabilities are then of another distribution."""
    if recipe.sampling.temperature != 1:
        console.line(
            f"warning: sampling.temperature = {recipe.sampling.temperature}: the trainer divides its logits by it too, "
            "so what is trained is the policy at that temperature; 1 is the plain one"
        )
    if recipe.sampling.top_p != 1:
        console.line(
            f"warning: sampling.top_p = {recipe.sampling.top_p}: completions come from a cut distribution and the "
            "trainer's log-probabilities from the whole one, so they differ; 1 cuts nothing"
        )


def _policy(recipe: Recipe, base: str, *, updates: int, console: Console, comm: Comm, meter: Meter) -> PolicyEngine:
    """The policy that GRPO trains, for that many updates."""
    console.line(f"loading      {base}")
    return assemble.make_policy(
        recipe,
        base,
        optim=assemble.make_optim(recipe),
        updates=updates,
        console=console,
        comm=comm,
        meter=meter,
        temperature=recipe.sampling.temperature,
        kl=recipe.loss.kl,
    )


def _audited_judges(recipe: Recipe, console: Console, comm: Comm) -> tuple[GroupScorer, Verifier]:
    """The recipe's rewards, after a table of what policies that game them would earn; and evaluation's own verifier."""
    recipe.reward.check_format(reasoning=recipe.model.reasoning)
    check_name(recipe.eval.nli)
    load_own(recipe.reward)  # what the user got wrong is found before a judge is loaded
    judge = make_judge(recipe.reward.verifier, console=console)
    score = compose(recipe.reward, reasoning=recipe.model.reasoning, verifier=judge)
    if comm.rank == 0:
        Terminal().print(table(audit(recipe.reward, reasoning=recipe.model.reasoning, verifier=judge)))
    same = recipe.eval.nli == recipe.reward.verifier
    return score, judge if same else make_judge(recipe.eval.nli, console=console)


def _starting_model(recipe: Recipe, console: Console, comm: Comm, questions: assemble.Questions) -> str:
    """The folder of the weights that training starts from: an earlier stage's, the warm-up's, or the base model's."""
    start = assemble.start_folder(recipe)
    if start is None and recipe.warmup.steps:
        return str(run_warm_up(recipe, console, comm, questions=questions))
    return comm.first(lambda: locate(start or recipe.model.name, console=console))


def _open_log(
    recipe: Recipe, folder: Path, steps: int, console: Console, comm: Comm, *, meter: Meter, name: str = ""
) -> RunLog:
    return RunLog(
        folder,
        name=name or folder.name,
        steps=steps,
        console=console,
        project=recipe.run.project,
        settings={"recipe": dump(recipe)},
        rollouts_every=recipe.run.rollouts_every,
        writes=comm.rank == 0,
        meter=meter,
    )


def _check_lengths(speech: assemble.Speech, questions: assemble.Questions, console: Console) -> None:
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
