"""GRPO from a recipe: checks, questions, warm-up where its model is missing, training, held-out table."""

from curriculum.samplers import make_curriculum
from curriculum.stage_end import StageEnd, check_stage_end
from eval.online_metrics import OnlineTrustScore
from eval.predictions import write_questions
from grpo.collect import SyncCollector
from grpo.distributed.communicator import Communicator
from grpo.distributed.failure_detection import ranks_per_node
from grpo.loop import LoopConfig, train
from grpo.policy.base import PolicyEngine
from grpo.policy.nonfinite import NonFiniteLog
from grpo.telemetry.console import Console
from grpo.telemetry.throughput import ThroughputMeter
from launch.builders.data import Questions, load_questions
from launch.builders.models import locate, starting_model
from launch.builders.policy import check_ranks, choose_dtype, choose_logprob_gap, make_meter, make_policy
from launch.builders.prompts import make_prompt_codec
from launch.builders.rewards import make_judge, make_scorer
from launch.builders.rollout import choose_rollout, make_rollout
from launch.config.model_size import UnknownModelSize
from launch.config.recipe import Recipe
from launch.planner.devices import devices_at_hand
from launch.planner.report import announce, batch_plan, make_plan
from launch.runs.monitor import HeldOutEvaluator, TrainingMonitor, check_best_by
from launch.runs.resume import digest
from launch.runs.run import Run
from launch.runs.sft import check_lengths, ensure_warm_up
from rewards.judges.load import check_judge_name


def train_grpo(recipe: Recipe, console: Console, comm: Communicator) -> None:
    """Train one stage. Everything the user can get wrong is found before a model is loaded."""
    with Run(recipe, comm=comm, console=console) as run:
        check_ranks(recipe.policy, recipe.sampling, recipe.loss, comm.world)
        start_from = starting_model(recipe.model, recipe.run.folder)
        questions = load_questions(recipe.data, recipe.sft, recipe.held_out, console, warm_up=start_from is None)
        steps = recipe.steps(len(questions.train))
        comm.on_rank0(lambda: _print_plans(recipe, console, comm, questions=len(questions.train)))
        _warn_of_sampling(recipe, console)
        check_best_by(recipe, questions.held_out)
        check_stage_end(recipe.stage_end, steps=steps, every=recipe.held_out.every)
        curriculum = make_curriculum(recipe.curriculum, questions.train, seed=recipe.run.seed)
        check_judge_name(recipe.held_out.judge)
        reasoning, audited = recipe.model.reasoning, comm.rank == 0
        scorer, judge = make_scorer(recipe.reward, reasoning=reasoning, audited=audited, console=console)
        if recipe.held_out.judge != recipe.reward.judge:
            judge = make_judge(recipe.held_out.judge, console=console)
        base = _starting_weights(recipe, start_from, console, comm, questions)
        sampling = recipe.sampling
        codec = make_prompt_codec(recipe.model, base, console, max_tokens=sampling.max_tokens)
        check_lengths(codec, questions, console, limit=sampling.max_tokens)
        engine = choose_rollout(recipe.rollout, base, console)
        meter = make_meter(recipe.policy, recipe.model, base)
        policy = _make_policy(run, base, updates=steps * recipe.loss.updates_per_step, meter=meter)
        rollout = make_rollout(
            engine,
            recipe.rollout,
            base,
            codec=codec,
            context=recipe.model.context,
            dtype=choose_dtype(recipe.policy),
            console=console,
            comm=comm,
        )
        live = OnlineTrustScore(judge, reasoning=recipe.model.reasoning)
        held_out = HeldOutEvaluator(run, questions.held_out, policy, rollout, codec, live)
        stage_end = StageEnd(recipe.stage_end)
        monitor = TrainingMonitor(run, held_out, base=base, stage_end=stage_end, scorer=scorer)
        cfg = LoopConfig(
            steps=steps,
            loss=recipe.loss,
            max_tokens=sampling.max_tokens,
            max_logprob_gap=choose_logprob_gap(recipe.loss, recipe.policy, top_p=sampling.top_p),
            reward_weights=recipe.reward.weights,
            seed=recipe.run.seed,
        )
        collector = SyncCollector(
            policy=policy,
            rollout=rollout,
            curriculum=curriculum,
            score=scorer,
            render=codec.render,
            comm=comm,
            sampling=sampling,
            seed=recipe.run.seed,
        )
        with run.training(
            steps=steps,
            policy=policy,
            tokenizer=codec.tokenizer,
            meter=meter,
            shared={"curriculum": curriculum, "monitor": monitor, "stage_end": stage_end},
            own={"scorer": scorer},
            about={"the questions to train on": digest(questions.train)},
        ) as start:
            splits = {"held_out": questions.held_out, "train": questions.train}
            comm.on_rank0(lambda: write_questions(run.folder, splits))
            if start == 0:
                monitor.on_train_begin()
            first = steps if stage_end.is_reached else start  # the run was stopped in the stage's last step
            train(cfg, collector=collector, policy=policy, comm=comm, log=run.log, callbacks=monitor, start=first)
            monitor.on_train_end(steps)
        monitor.print_table()


def _print_plans(recipe: Recipe, console: Console, comm: Communicator, *, questions: int) -> None:
    """Print the plans of batches and of memory; UserError where the memory does not suffice."""
    console.line(batch_plan(recipe, questions=questions, ranks=comm.world))
    gap = choose_logprob_gap(recipe.loss, recipe.policy, top_p=recipe.sampling.top_p)
    limit = f"{gap:.3g} nats a token between sampler and trainer"
    console.line(f"precision    {choose_dtype(recipe.policy)}; more than {limit}, on average, stop the run")
    if recipe.run.plan == "off":
        return
    per_node = ranks_per_node(comm.world)
    try:
        plan = make_plan(recipe, devices_at_hand(per_node=per_node, nodes=comm.world // per_node))
    except UnknownModelSize as error:  # a model of unknown size may still be trained
        console.line(f"memory plan  none: {error}")
        return
    announce(plan, recipe.run.plan)


def _warn_of_sampling(recipe: Recipe, console: Console) -> None:
    """Say what a temperature or top_p other than 1 does to the log-probabilities."""
    if recipe.sampling.temperature != 1:
        console.line(
            f"warning: sampling.temperature = {recipe.sampling.temperature}: the trainer divides its logits by it too, "
            "so the policy at that temperature is trained; valid to train the plain policy: 1"
        )
    if recipe.sampling.top_p != 1:
        console.line(
            f"warning: sampling.top_p = {recipe.sampling.top_p}: completions come from a part of the distribution and "
            "the trainer's log-probabilities from all of it, so they differ; 1 leaves nothing out"
        )


def _make_policy(run: Run, base: str, *, updates: int, meter: ThroughputMeter) -> PolicyEngine:
    """The policy to train for that many updates; rows of updates that are not finite go into the run's `bad`."""
    recipe, console, comm = run.recipe, run.console, run.comm
    console.line(f"loading      {base}")
    return make_policy(
        recipe.policy,
        recipe.optim,
        base,
        updates=updates,
        context=recipe.model.context,
        console=console,
        comm=comm,
        meter=meter,
        temperature=recipe.sampling.temperature,
        reference=recipe.loss.kl_coef > 0,
        nonfinite=NonFiniteLog(folder=run.folder / "bad", limit=recipe.checkpoint.max_nonfinite_updates),
    )


def _starting_weights(
    recipe: Recipe, start: str | None, console: Console, comm: Communicator, questions: Questions
) -> str:
    """The folder of the weights that training starts from: an earlier run's, the warm-up's, or the base model's."""
    if start is None and recipe.sft.steps:
        return str(ensure_warm_up(recipe, console, comm, questions=questions))
    return comm.local_main_first(lambda: locate(start or recipe.model.name, console=console))
