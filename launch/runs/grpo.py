"""GRPO from a recipe: checks, questions, warm-up where its model is missing, training, held-out table."""

from curriculum.samplers import make_curriculum
from curriculum.stage_end import StageEnd, check_stage_end
from eval.online_metrics import OnlineTrustScore
from eval.predictions import write_questions
from grpo.collect import SyncCollector
from grpo.distributed.communicator import Communicator
from grpo.distributed.failure_detection import ranks_per_node
from grpo.loop import train
from grpo.policy.base import PolicyEngine
from grpo.policy.nonfinite import NonFiniteLog
from grpo.telemetry.console import Console
from grpo.telemetry.throughput import ThroughputMeter
from launch.builders import assemble
from launch.builders.metering import make_meter
from launch.builders.models import locate, make_judge
from launch.builders.precision import max_logprob_gap, precision
from launch.builders.rollout import choose_rollout, make_rollout
from launch.config.model_size import UnknownModelSize
from launch.config.recipe import Recipe
from launch.planner.devices import devices_at_hand
from launch.planner.report import announce, batch_plan, make_plan
from launch.runs.monitor import HeldOutEvaluator, TrainingMonitor, check_best_by
from launch.runs.resume import digest
from launch.runs.run import Run
from launch.runs.sft import check_lengths, ensure_warm_up
from rewards.audit import audit, policies_that_beat_honesty
from rewards.custom import load_custom_rewards
from rewards.judges.base import Judge
from rewards.judges.load import check_judge_name
from rewards.scorer import RewardScorer


def train_grpo(recipe: Recipe, console: Console, comm: Communicator) -> None:
    """Train one stage. Everything the user can get wrong is found before a model is loaded."""
    with Run(recipe, comm=comm, console=console) as run:
        assemble.check_ranks(recipe, comm.world, warm_up=False)
        questions = assemble.load_questions(recipe, console)
        steps = recipe.steps(len(questions.train))
        comm.on_rank0(lambda: _print_plans(recipe, console, comm, questions=len(questions.train)))
        _warn_of_sampling(recipe, console)
        check_best_by(recipe, questions.held_out)
        check_stage_end(recipe.stage_end, steps=steps, every=recipe.held_out.every)
        curriculum = make_curriculum(recipe.curriculum, questions.train, seed=recipe.run.seed)
        scorer, judge = _make_scorer(run)
        base = _starting_model(recipe, console, comm, questions)
        speech = assemble.make_speech(recipe, base, console)
        check_lengths(speech, questions, console)
        cfg = assemble.loop_config(recipe, steps=steps)
        meter, engine = make_meter(recipe, base), choose_rollout(recipe, base, console)
        policy = _make_policy(run, base, updates=steps * cfg.loss.updates_per_step, meter=meter)
        rollout = make_rollout(engine, recipe, base, speech, console, comm)
        live = OnlineTrustScore(judge, reasoning=recipe.model.reasoning)
        held_out = HeldOutEvaluator(run, questions.held_out, policy, rollout, speech, live)
        stage_end = StageEnd(recipe.stage_end)
        monitor = TrainingMonitor(run, held_out, base=base, stage_end=stage_end, scorer=scorer)
        collector = SyncCollector(
            policy=policy,
            rollout=rollout,
            curriculum=curriculum,
            score=scorer,
            render=speech.render,
            comm=comm,
            sampling=recipe.sampling,
            seed=recipe.run.seed,
        )
        with run.training(
            steps=steps,
            policy=policy,
            tokenizer=speech.tokenizer,
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
    limit = f"{max_logprob_gap(recipe):.3g} nats a token between sampler and trainer"
    console.line(f"precision    {precision(recipe)}; more than {limit}, on average, stop the run")
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
    return assemble.make_policy(
        recipe,
        base,
        optim=recipe.optim,
        updates=updates,
        console=console,
        comm=comm,
        meter=meter,
        temperature=recipe.sampling.temperature,
        kl=recipe.loss.kl_coef,
        nonfinite=NonFiniteLog(folder=run.folder / "bad", limit=recipe.checkpoint.max_nonfinite_updates),
    )


def _make_scorer(run: Run) -> tuple[RewardScorer, Judge]:
    """The recipe's rewards, and the judge of held-out answers. Prints which policies could game the rewards."""
    recipe, console = run.recipe, run.console
    recipe.reward.check_format(reasoning=recipe.model.reasoning)
    check_judge_name(recipe.held_out.judge)
    custom = load_custom_rewards(recipe.reward)  # the user's errors are found before a judge is loaded
    judge = make_judge(recipe.reward.judge, console=console)
    scorer = RewardScorer(recipe.reward, reasoning=recipe.model.reasoning, judge=judge, custom=custom)
    rows = audit(recipe.reward, reasoning=recipe.model.reasoning, judge=judge) if run.comm.rank == 0 else []
    if rows and (hacks := policies_that_beat_honesty(rows)):
        console.line(f"hackable by  {', '.join(hacks)}: more reward than honest answers (python -m rewards.audit)")
    same = recipe.held_out.judge == recipe.reward.judge
    return scorer, judge if same else make_judge(recipe.held_out.judge, console=console)


def _starting_model(recipe: Recipe, console: Console, comm: Communicator, questions: assemble.Questions) -> str:
    """The folder of the weights that training starts from: an earlier run's, the warm-up's, or the base model's."""
    start = assemble.start_folder(recipe)
    if start is None and recipe.sft.steps:
        return str(ensure_warm_up(recipe, console, comm, questions=questions))
    return comm.local_main_first(lambda: locate(start or recipe.model.name, console=console))
