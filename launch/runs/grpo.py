"""GRPO from a recipe: checks, questions, warm-up where its model is missing, training, held-out table."""

from dataclasses import replace

from curriculum.samplers import make_curriculum
from curriculum.stage_end import StageEnd, check_stage_end
from eval.online_metrics import OnlineTrustScore
from eval.predictions import write_questions
from grpo.collect import Collector
from grpo.distributed.communicator import Communicator
from grpo.distributed.failure_detection import ranks_per_node
from grpo.loop import LoopConfig, train
from grpo.policy.nonfinite import NonFiniteLog
from grpo.telemetry.console import Console
from grpo.types import Curriculum, SamplingConfig
from launch.builders.data import Questions, check_count, load_questions
from launch.builders.models import locate, starting_model
from launch.builders.policy import check_ranks, choose_dtype, choose_logprob_gap
from launch.builders.prompts import fit_questions
from launch.builders.rewards import make_judge, make_scorer
from launch.config.model_size import UnknownModelSize
from launch.config.recipe import Recipe
from launch.planner.devices import devices_at_hand
from launch.planner.report import announce, batch_plan, make_plan
from launch.runs.monitor import HeldOutEvaluator, TrainingMonitor, check_best_by
from launch.runs.resume import digest
from launch.runs.run import Engines, Run
from launch.runs.sft import ensure_warm_up
from launch.runs.target_check import AUDITED, TARGETS, check_judge, spread
from rewards.judges.load import check_judge_name
from rewards.scorer import RewardScorer


def train_grpo(recipe: Recipe, console: Console, comm: Communicator) -> None:
    """Train one stage. Everything the user can get wrong is found before a model is loaded."""
    with Run(recipe, comm=comm, console=console) as run:
        check_ranks(recipe.policy, recipe.sampling, recipe.loss, comm.world)
        start_from = starting_model(recipe.model, recipe.run.folder)
        data = recipe.data_with_refusals
        questions = load_questions(data, recipe.sft, recipe.held_out, console, warm_up=start_from is None)
        name, limit = start_from or recipe.model.name, recipe.sampling.max_tokens
        questions = fit_questions(questions, recipe.model, name, console, comm, max_tokens=limit)
        check_count(len(questions.train), recipe.data, console)
        steps = recipe.steps(len(questions.train))
        comm.on_rank0(lambda: _print_plans(run, questions=len(questions.train), steps=steps))
        _warn_of_sampling(recipe.sampling, console)
        check_best_by(recipe.held_out, questions.held_out)
        check_stage_end(recipe.stage_end, steps=steps, every=recipe.held_out.every)
        curriculum = make_curriculum(recipe.curriculum, questions.train, seed=recipe.run.seed)
        check_judge_name(recipe.held_out.judge)
        form = {"reasoning": recipe.model.reasoning, "refusals": recipe.model.refusals}
        audited = spread([e for e in questions.train if e.passages], AUDITED) if comm.rank == 0 else None
        scorer, judge = make_scorer(recipe.reward, **form, audited=audited, console=console)
        if recipe.held_out.judge != recipe.reward.judge:
            judge = make_judge(recipe.held_out.judge, console=console)
        base = _starting_weights(run, start_from, questions)
        engines = run.load_engines(
            base,
            recipe.optim,
            targets=questions.train,
            updates=steps * recipe.loss.updates_per_step,
            samples=True,
            temperature=recipe.sampling.temperature,
            reference=recipe.loss.kl_coef > 0,
            nonfinite=NonFiniteLog(folder=run.folder / "bad", limit=recipe.checkpoint.max_nonfinite_updates),
        )
        check_judge(engines.codec, spread(questions.train, TARGETS), recipe.reward, scorer.judge, console)
        live = OnlineTrustScore(judge, **form)
        held_out, stage_end = HeldOutEvaluator(run, questions.held_out, engines, live), StageEnd(recipe.stage_end)
        monitor = TrainingMonitor(run, engines, held_out, stage_end=stage_end, scorer=scorer)
        shared = {"curriculum": curriculum, "monitor": monitor, "stage_end": stage_end}
        about, own = {"the questions to train on": digest(questions.train)}, {"scorer": scorer}
        with run.training(steps=steps, engines=engines, shared=shared, own=own, about=about) as start:
            splits = {"held_out": questions.held_out, "train": questions.train, "warm_up": questions.warm_up}
            comm.on_rank0(lambda: write_questions(run.folder, splits))
            if start == 0:
                monitor.on_train_begin()
            first = steps if stage_end.is_reached else start  # the run was stopped in the stage's last step
            _loop(run, engines, curriculum, scorer, monitor, start=first, steps=steps)
            monitor.on_train_end(steps)
        monitor.print_table()


def _loop(
    run: Run,
    engines: Engines,
    curriculum: Curriculum,
    scorer: RewardScorer,
    monitor: TrainingMonitor,
    *,
    start: int,
    steps: int,
) -> None:
    """The steps from `start` on."""
    recipe, sampling = run.recipe, run.recipe.sampling
    assert engines.rollout is not None
    cfg = LoopConfig(
        steps=steps,
        loss=recipe.loss,
        max_tokens=sampling.max_tokens,
        max_logprob_gap=choose_logprob_gap(recipe.loss, recipe.policy, top_p=sampling.top_p),
        reward_weights=recipe.reward.weights,
        seed=recipe.run.seed,
    )
    collector = Collector(
        policy=engines.policy,
        rollout=engines.rollout,
        curriculum=curriculum,
        score=scorer,
        render=engines.codec.render,
        comm=run.comm,
        sampling=sampling,
        seed=recipe.run.seed,
    )
    train(cfg, collector=collector, policy=engines.policy, comm=run.comm, log=run.log, callbacks=monitor, start=start)


def _print_plans(run: Run, *, questions: int, steps: int) -> None:
    """Print the plans of batches and of memory; UserError where the memory does not suffice."""
    r, console, ranks = run.recipe, run.console, run.comm.world
    console.line(batch_plan(r.sampling, r.loss, r.policy, questions=questions, steps=steps, ranks=ranks))
    gap = choose_logprob_gap(r.loss, r.policy, top_p=r.sampling.top_p)
    limit = f"{gap:.3g} nats a token between sampler and trainer"
    console.line(f"precision    {choose_dtype(r.policy)}; more than {limit}, on average, stop the run")
    if r.run.plan == "off":
        return
    per_node = ranks_per_node(ranks)
    devices = devices_at_hand(per_node=per_node, nodes=ranks // per_node)
    try:
        plan = make_plan(r.model, r.sampling, r.loss, r.policy, r.rollout, devices)
    except UnknownModelSize as error:  # a model of unknown size may still be trained
        console.line(f"memory plan  none: {error}")
        return
    announce(plan, r.run.plan)


def _warn_of_sampling(sampling: SamplingConfig, console: Console) -> None:
    """Say what a temperature or top_p other than 1 does to the log-probabilities."""
    if sampling.temperature != 1:
        console.line(
            f"warning: sampling.temperature = {sampling.temperature}: the trainer divides its logits by it too, "
            "so the policy at that temperature is trained; valid to train the plain policy: 1"
        )
    if sampling.top_p != 1:
        console.line(
            f"warning: sampling.top_p = {sampling.top_p}: completions come from a part of the distribution and "
            "the trainer's log-probabilities from all of it, so they differ; 1 leaves nothing out"
        )


def _starting_weights(run: Run, start: str | None, questions: Questions) -> str:
    """The folder of the weights that training starts from: an earlier run's, the warm-up's, or the base model's."""
    recipe, console, comm = run.recipe, run.console, run.comm
    if start is None and recipe.sft.steps:  # the warm-up is measured as the model before training, and not by itself
        return str(ensure_warm_up(recipe, console, comm, replace(questions, held_out=[])))
    return comm.local_main_first(lambda: locate(start or recipe.model.name, console=console))
