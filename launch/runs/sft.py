"""Supervised training on gold answers: a run of its own, and the warm-up that GRPO runs share."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from curriculum.samplers import EpochSampler
from eval.online_metrics import OnlineTrustScore
from grpo.data.example import Example
from grpo.data.prompts import load_system_prompt
from grpo.distributed.communicator import Communicator, check_divisible
from grpo.errors import UserError
from grpo.losses import sft_loss
from grpo.policy.optimizer import AdamWConfig
from grpo.supervised import fit, sft_batch
from grpo.telemetry.console import Console
from launch.builders.data import Questions, load_questions
from launch.builders.models import fingerprint, locate, starting_model
from launch.builders.policy import choose_dtype, make_meter, make_policy, resolve_backend
from launch.builders.prompts import PromptCodec, make_prompt_codec
from launch.builders.rewards import make_judge
from launch.builders.rollout import choose_rollout, make_rollout
from launch.config.recipe import Recipe
from launch.runs.monitor import HeldOutEvaluator, TrainingMonitor, check_best_by
from launch.runs.resume import digest
from launch.runs.run import Run
from rewards.judges.load import check_judge_name


def train_sft(recipe: Recipe, console: Console, comm: Communicator) -> None:
    """Supervised training as a run of its own; without a name, it is the warm-up of the recipes that need it."""
    if recipe.run.name:
        with Run(recipe, comm=comm, console=console) as run:
            questions = _load_questions(recipe, console)
            _train(run, questions, held_out=questions.held_out)
    else:
        ensure_warm_up(recipe, console, comm, questions=_load_questions(recipe, console))


def ensure_warm_up(recipe: Recipe, console: Console, comm: Communicator, *, questions: Questions) -> Path:
    """The folder of this recipe's warmed-up model, which is trained if it is not there yet.

    Runs that need the same warm-up at the same time wait for the first of them to make it.
    """
    folder = warm_up_folder(recipe, questions)
    with Run(recipe, comm=comm, console=console, folder=folder, shared=True) as run:
        if comm.on_rank0(lambda: run.is_finished):
            console.line(f"warm-up      {run.model} is there already")
        else:
            _train(run, questions)
        return run.model


def warm_up_folder(recipe: Recipe, questions: Questions) -> Path:
    """Return the run folder of this recipe's warm-up, named by content.

    The name holds a hash of all that makes the warm-up what it is, the questions included, so that a run can never
    start from a warm-up of something else.
    """
    model, policy = recipe.model, recipe.policy
    parts = [fingerprint(model.name), load_system_prompt(model.system_prompt), model.reasoning, recipe.sft.model_dump()]
    parts += [policy.dtype, policy.layout, policy.token_budget, [asdict(example) for example in questions.warm_up]]
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
    return Path(recipe.run.folder) / f"sft-{model.label}-{digest}"


def _load_questions(recipe: Recipe, console: Console) -> Questions:
    if not recipe.sft.steps:
        raise UserError(
            "sft.steps = 0: this model's recipe asks for no warm-up; valid: a number of steps, such as 24 "
            "(--sft.steps=24)"
        )
    start = starting_model(recipe.model, recipe.run.folder)
    return load_questions(recipe.data, recipe.sft, recipe.held_out, console, warm_up=start is None)


def _train(run: Run, questions: Questions, *, held_out: Sequence[Example] = ()) -> None:
    """Train on the warm-up questions; with `held_out` questions the model is measured before, after and on the way."""
    recipe, console, comm, settings = run.recipe, run.console, run.comm, run.recipe.sft
    resolve_backend(recipe.policy, comm.world)
    check_divisible(settings.examples_per_step, comm.world, "sft.examples_per_step")
    if held_out:
        check_best_by(recipe, held_out)
        check_judge_name(recipe.held_out.judge)
    base = comm.local_main_first(lambda: locate(recipe.model.name, console=console))
    codec = make_prompt_codec(recipe.model, base, console, max_tokens=recipe.sampling.max_tokens)
    check_lengths(codec, questions, console, limit=recipe.sampling.max_tokens)
    count = f"{settings.steps} supervised steps of {settings.examples_per_step} gold answers"
    console.line(f"warm-up      {count} -> {run.model}")
    console.line(f"loading      {base}")
    meter = make_meter(recipe.policy, recipe.model, base)
    policy = make_policy(
        recipe.policy,
        AdamWConfig(lr=settings.lr, schedule="linear", warmup_ratio=0.1),
        base,
        updates=settings.steps,
        context=recipe.model.context,
        console=console,
        comm=comm,
        meter=meter,
    )
    evaluator = None
    if held_out:
        rollout = make_rollout(
            choose_rollout(recipe.rollout, base, console),
            recipe.rollout,
            base,
            codec=codec,
            context=recipe.model.context,
            dtype=choose_dtype(recipe.policy),
            console=console,
            comm=comm,
        )
        live = OnlineTrustScore(make_judge(recipe.held_out.judge, console=console), reasoning=recipe.model.reasoning)
        evaluator = HeldOutEvaluator(run, held_out, policy, rollout, codec, live)
    monitor = TrainingMonitor(run, evaluator, base=base)
    sampler = EpochSampler(questions.warm_up, seed=settings.seed, in_order=True)
    with run.training(
        steps=settings.steps,
        policy=policy,
        tokenizer=codec.tokenizer,
        meter=meter,
        shared={"sampler": sampler, "monitor": monitor},
        about={"the questions of the warm-up": digest(questions.warm_up)},
    ) as start:
        if start == 0:
            monitor.on_train_begin()
        fit(
            lambda step: sft_batch(
                [codec.encode_reference(e) for e in sampler.next_batch(settings.examples_per_step)], comm
            ),
            steps=settings.steps,
            policy=policy,
            loss=sft_loss,
            comm=comm,
            log=run.log,
            callbacks=monitor,
            start=start,
        )
        monitor.on_train_end(settings.steps)
    monitor.print_table()


def check_lengths(codec: PromptCodec, questions: Questions, console: Console, *, limit: int) -> None:
    """Render every prompt, so that one that is too long is found before training.

    Warns where many reference answers are longer than `limit` tokens: such completions count as malformed.
    """
    for example in (*questions.train, *questions.warm_up, *questions.held_out):
        codec.render(example)
    lengths = sorted(len(codec.encode_reference(example).completions[0].token_ids) for example in questions.train[:500])
    longer = sum(length > limit for length in lengths) / len(lengths)
    if longer > 0.2:
        fits = lengths[int(0.9 * (len(lengths) - 1))]
        console.line(
            f"warning: {longer:.0%} of the gold answers are longer than sampling.max_tokens = {limit}; "
            f"nine of ten fit into {fits}"
        )
