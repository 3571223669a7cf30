"""Supervised training on gold answers: a run of its own, and the warm-up that GRPO runs share."""

import hashlib
from dataclasses import asdict
from pathlib import Path

from curriculum.samplers import EpochSampler
from eval.online_metrics import OnlineTrustScore
from eval.predictions import write_questions
from grpo.batch import Batch
from grpo.data.prompts import load_system_prompt
from grpo.distributed.communicator import Communicator, check_divisible
from grpo.errors import UserError
from grpo.losses import sft_loss
from grpo.policy.optimizer import AdamWConfig
from grpo.settings import PolicyConfig
from grpo.supervised import fit, sft_batch
from grpo.telemetry.console import Console
from launch.builders.data import Questions, check_count, load_questions
from launch.builders.models import fingerprint, locate, starting_model
from launch.builders.policy import resolve_backend
from launch.builders.prompts import fit_questions
from launch.builders.rewards import make_judge
from launch.config.recipe import ModelConfig, Recipe, SFTConfig
from launch.runs.monitor import HeldOutEvaluator, TrainingMonitor, check_best_by
from launch.runs.resume import digest
from launch.runs.run import Run
from rewards.judges.load import check_judge_name


def train_sft(recipe: Recipe, console: Console, comm: Communicator) -> None:
    """Supervised training as a run of its own; without a name, it is the warm-up of the recipes that need it."""
    if not recipe.sft.steps:
        raise UserError(
            "sft.steps = 0: this model's recipe asks for no warm-up; valid: a number of steps, such as 24 "
            "(--sft.steps=24)"
        )
    start = starting_model(recipe.model, recipe.run.folder)
    data = recipe.data_with_refusals
    questions = load_questions(data, recipe.sft, recipe.held_out, console, warm_up=start is None)
    questions = fit_questions(
        questions, recipe.model, start or recipe.model.name, console, comm, max_tokens=recipe.sampling.max_tokens
    )
    check_count(len(questions.train), recipe.data, console)
    if not recipe.run.name:
        ensure_warm_up(recipe, console, comm, questions)
        return
    with Run(recipe, comm=comm, console=console) as run:
        _train(run, questions)


def ensure_warm_up(recipe: Recipe, console: Console, comm: Communicator, questions: Questions) -> Path:
    """The folder of this recipe's warmed-up model, which is trained if it is not there yet.

    Runs that need the same warm-up at the same time wait for the first of them to make it.
    """
    name = warm_up_name(recipe.model, recipe.policy, recipe.sft, questions)
    folder = Path(recipe.run.folder) / name
    with Run(recipe, comm=comm, console=console, folder=folder, shared=True) as run:
        if comm.on_rank0(lambda: run.is_finished):
            console.line(f"warm-up      {run.model} is there already")
        else:
            _train(run, questions)
        return run.model


def warm_up_name(model: ModelConfig, policy: PolicyConfig, sft: SFTConfig, questions: Questions) -> str:
    """Return the folder name of a warm-up, which says by a hash what it is made of.

    The questions are a part of it, so that a run can never start from a warm-up of something else.
    """
    parts = [fingerprint(model.name), load_system_prompt(model.system_prompt), model.reasoning, model.refusals]
    parts += [
        sft.model_dump(),
        policy.dtype,
        policy.layout,
        policy.token_budget,
        [asdict(example) for example in questions.warm_up],
    ]
    return f"sft-{model.label}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def _train(run: Run, questions: Questions) -> None:
    """Train on the warm-up questions; with held-out ones the model is measured before, after and on the way."""
    recipe, console, comm, settings = run.recipe, run.console, run.comm, run.recipe.sft
    held_out = questions.held_out
    resolve_backend(recipe.policy, comm.world)
    check_divisible(settings.examples_per_step, comm.world, "sft.examples_per_step")
    if held_out:
        check_best_by(recipe.held_out, held_out)
        check_judge_name(recipe.held_out.judge)
    base = comm.local_main_first(lambda: locate(recipe.model.name, console=console))
    count = f"{settings.steps} supervised steps of {settings.examples_per_step} gold answers"
    console.line(f"warm-up      {count} -> {run.model}")
    optim = AdamWConfig(lr=settings.lr, schedule="linear", warmup_ratio=0.1)
    engines = run.load_engines(base, optim, targets=questions.warm_up, updates=settings.steps, samples=bool(held_out))
    evaluator = None
    if held_out:
        judge, model = make_judge(recipe.held_out.judge, console=console), recipe.model
        live = OnlineTrustScore(judge, reasoning=model.reasoning, refusals=model.refusals)
        evaluator = HeldOutEvaluator(run, held_out, engines, live)
    monitor = TrainingMonitor(run, engines, evaluator)
    sampler = EpochSampler(questions.warm_up, seed=settings.seed, in_order=True)

    def batch(step: int) -> Batch:
        examples = sampler.next_batch(settings.examples_per_step)
        return sft_batch([engines.codec.encode_reference(example) for example in examples], comm)

    shared, about = (
        {"sampler": sampler, "monitor": monitor},
        {"the questions of the warm-up": digest(questions.warm_up)},
    )
    with run.training(steps=settings.steps, engines=engines, shared=shared, about=about) as start:
        splits = {"held_out": held_out, "warm_up": questions.warm_up}
        comm.on_rank0(lambda: write_questions(run.folder, splits))
        if start == 0:
            monitor.on_train_begin()
        fit(
            batch,
            steps=settings.steps,
            policy=engines.policy,
            loss=sft_loss,
            comm=comm,
            log=run.log,
            callbacks=monitor,
            start=start,
        )
        monitor.on_train_end(settings.steps)
    monitor.print_table()
