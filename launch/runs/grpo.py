"""One stage of training from a recipe: plan, questions, warm-up where it is missing, before, GRPO, after."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal

from curriculum.samplers import Curriculum, make_curriculum
from curriculum.stage_end import StageEnd, check_stage_end
from eval.online_metrics import OnlineTrustScore
from eval.predictions import write_questions
from grpo.checkpointing.export import save_model_folder
from grpo.checkpointing.manager import Checkpoints
from grpo.checkpointing.rng_state import seed_random_states
from grpo.checkpointing.store import Snapshot, newest, remove_all
from grpo.distributed.communicator import Comm
from grpo.distributed.failure_detection import ranks_of_node
from grpo.distributed.watchdog import Watchdog
from grpo.loop import train
from grpo.policy.nonfinite import Guarded
from grpo.rollout.base import RolloutEngine
from grpo.rollout.restart import Restarted
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import make_run_folder
from grpo.telemetry.throughput import ThroughputMeter
from grpo.types import Group
from launch.builders import assemble
from launch.builders.metering import make_meter
from launch.builders.models import locate, make_judge
from launch.builders.precision import max_logprob_gap, precision
from launch.builders.rollout import choose_rollout, make_rollout
from launch.config.model_size import UnknownModelSize
from launch.config.recipe import Recipe
from launch.planner.devices import devices_at_hand
from launch.planner.report import announce, batch_plan, make_plan
from launch.runs import resume
from launch.runs.lineage import check_after, stages_of, write_stages
from launch.runs.monitor import HeldOut, Watcher, check_best_by, show_table, watched_gate
from launch.runs.run_lock import FolderLock
from launch.runs.sft import check_lengths, open_log, run_warm_up
from rewards.audit import audit, table
from rewards.custom import load_custom_rewards
from rewards.judges.base import Judge, check_judge_name
from rewards.scorer import RewardScorer


@dataclass(frozen=True)
class StageCallbacks:
    """The end of a step: measurements, the end of the stage, checkpoints."""

    watcher: Watcher
    is_over: Callable[[Mapping[str, float]], bool]
    checkpoints: Checkpoints

    def on_step(self, step: int, groups: Sequence[Group], values: Mapping[str, float]) -> Mapping[str, float]:
        return self.watcher(step, list(groups), values)

    def on_step_end(self, done: int, values: Mapping[str, float]) -> bool:
        over = self.is_over(values)
        self.checkpoints(done)
        return over


def run_stage(recipe: Recipe, console: Console, comm: Comm) -> Path:
    """Train, and return the run folder. Everything the user can get wrong is found before a model is loaded."""
    folder = Path(recipe.run.folder) / recipe.run_name
    with FolderLock(folder, tell=console.line) as lock:
        comm.lead(lambda: lock.take(create=False))
        found = comm.lead(lambda: resume.find(recipe, folder, console))
        assemble.check_ranks(recipe, comm.world, warm_up=False)
        questions = assemble.load_questions(recipe, console)
        steps = recipe.steps(len(questions.train))
        comm.lead(lambda: _announce_plans(recipe, console, comm, questions=len(questions.train)))
        curriculum = _checked_curriculum(recipe, questions, steps, console)
        score, judge = _audited_judges(recipe, console, comm)
        base = _starting_model(recipe, console, comm, questions)
        speech = assemble.make_speech(recipe, base, console)
        check_lengths(speech, questions, console)
        cfg = assemble.loop_settings(recipe, steps=steps)
        meter, updates = make_meter(recipe, base), steps * cfg.updates_per_step
        policy, rollout = _engines(recipe, base, folder, speech, console, comm, updates=updates, meter=meter)
        comm.lead(lambda: _prepare_folder(recipe, folder, lock, found=found, base=base, tell=console.line))
        splits = {"held_out": questions.held_out, "train": questions.train}
        comm.lead(lambda: write_questions(folder, splits))
        dog, id_ = Watchdog(rank=comm.rank, hang=recipe.checkpoint.hang_timeout or math.inf), resume.wandb_id(found)
        log = open_log(recipe, folder, folder.name, steps, console, comm, wandb_id=id_, around=dog.phase, meter=meter)
        who: dict[str, Any] = {"policy": policy, "rollout": rollout, "comm": comm, "log": log}
        live = OnlineTrustScore(judge, reasoning=recipe.model.reasoning)
        held_out = HeldOut(recipe=recipe, examples=questions.held_out, speech=speech, live=live, **who)
        watcher, gate, logs = _watcher(held_out, folder, score), StageEnd(recipe.stage_end), resume.Logs(folder, log)
        checkpoints = Checkpoints(
            folder=resume.checkpoints_of(folder),
            settings=recipe.checkpoint,
            steps=steps,
            policy=policy,
            shared={"curriculum": curriculum, "watcher": watcher, "gate": gate, "logs": logs, "bad updates": policy},
            own={"score": score},
            about={"the questions to train on": resume.digest(questions.train)},
            comm=comm,
            console=console,
            around=dog.phase,
            settle=logs.flush,
        )
        callbacks = StageCallbacks(watcher, watched_gate(gate, log, comm), checkpoints)
        asked: dict[str, Any] = {"curriculum": curriculum, "score": score, "render": speech.render}
        collector = assemble.make_collector(recipe, policy=policy, rollout=rollout, comm=comm, **asked)
        seed_random_states(recipe.run.seed, rank=comm.rank)  # of what draws beside the steps: a reward of one's own
        with log, dog.watching(end=checkpoints.hung):
            start = checkpoints.restore(found) if found else watcher.begin()
            start = steps if gate.is_reached else start  # it was asked to end in the very step that opened the gate
            with checkpoints.kept():
                ends: dict[str, Any] = {"callbacks": callbacks, "start": start}
                train(cfg, collector=collector, policy=policy, comm=comm, log=log, **ends)
            return _finish(held_out, watcher, folder, steps)


def _finish(held_out: HeldOut, watcher: Watcher, folder: Path, steps: int) -> Path:
    """The model, the table and, when all is there, no checkpoint any more: a finished run is not gone on with."""
    comm, console, recipe = held_out.comm, held_out.log.console, held_out.recipe
    with held_out.log.phase("save"):
        save_model_folder(held_out.policy, held_out.speech.tokenizer, folder / "model", comm)
    console.line(f"model        {folder / 'model'}")
    after = held_out.measure("after", version=steps)
    if held_out.examples and comm.rank == 0:
        title = f"{recipe.run_name}: {len(held_out.examples)} held-out questions, percent"
        show_table(watcher.before, after, title=title)
    watcher.clear()
    comm.lead(lambda: write_stages(folder / "model", stages_of(folder)))  # says that the run is finished
    comm.lead(lambda: remove_all(resume.checkpoints_of(folder)))
    return folder


def _watcher(held_out: HeldOut, folder: Path, score: RewardScorer) -> Watcher:
    """Without checkpoints on the way, no best model is gone back to."""
    wanted, recipe = resume.checkpoints_of(folder), held_out.recipe
    sealed = (lambda: newest(wanted).step) if recipe.checkpoint.every else (lambda: math.inf)
    return Watcher(
        held_out, folder, every=recipe.held_out.every, best_by=recipe.held_out.best_by, score=score, sealed=sealed
    )


def _checked_curriculum(recipe: Recipe, questions: assemble.Questions, steps: int, console: Console) -> Curriculum:
    """What is asked, in its order. UserError where the starting model, what is watched or the gate does not fit."""
    check_after(recipe, assemble.start_folder(recipe))
    warn_of_other_distributions(recipe, console)
    check_best_by(recipe, questions.held_out)
    check_stage_end(recipe.stage_end, steps=steps, every=recipe.held_out.every)
    return make_curriculum(recipe.curriculum, questions.train, seed=recipe.run.seed)


def _announce_plans(recipe: Recipe, console: Console, comm: Comm, *, questions: int) -> None:
    """The plans of batches and of memory, before anything heavy loads; UserError with the nearest that fits."""
    console.line(batch_plan(recipe, questions=questions, ranks=comm.world))
    limit = f"{max_logprob_gap(recipe):.3g} nats a token between sampler and trainer"
    console.line(f"precision    {precision(recipe)}; more than {limit}, on average, stop the run")
    if recipe.run.plan == "off":
        return
    per_node = ranks_of_node(comm.world)
    try:
        plan = make_plan(recipe, devices_at_hand(per_node=per_node, nodes=comm.world // per_node))
    except UnknownModelSize as error:  # what cannot be counted may still be trained
        console.line(f"memory plan  none: {error}")
        return
    announce(plan, recipe.run.plan)


def _prepare_folder(
    recipe: Recipe, folder: Path, lock: FolderLock, *, found: Snapshot | None, base: str, tell: Callable[[str], None]
) -> None:
    """The folder that this run writes into, locked: a new one, or as it was at the checkpoint that was `found`."""
    if found is None:
        if resume.is_cut_off(recipe, folder) and (aside := resume.set_aside(folder, lock)):
            tell(f"set aside    {aside}: a run that was cut off before its first checkpoint")
        make_run_folder(folder)
    lock.take(create=True)
    resume.prepare_folder(recipe, folder, found)
    write_stages(folder, (*stages_of(base), recipe.run.stage))


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


def _engines(
    recipe: Recipe,
    base: str,
    folder: Path,
    speech: assemble.Speech,
    console: Console,
    comm: Comm,
    *,
    updates: int,
    meter: ThroughputMeter,
) -> tuple[Guarded, RolloutEngine]:
    """Who updates the weights, and who samples from them."""
    engine = choose_rollout(recipe, base, console)
    policy = _policy(recipe, base, folder, updates=updates, console=console, comm=comm, meter=meter)
    make = partial(make_rollout, engine, recipe, base, speech, console, comm)
    return policy, Restarted(make, weights=policy.export_weights, comm=comm, tell=console.line)


def _policy(
    recipe: Recipe, base: str, folder: Path, *, updates: int, console: Console, comm: Comm, meter: ThroughputMeter
) -> Guarded:
    """The policy that GRPO trains, for that many updates; rows that are not finite are kept in the run's `folder`."""
    console.line(f"loading      {base}")
    policy = assemble.make_policy(
        recipe,
        base,
        optim=assemble.make_optim(recipe),
        updates=updates,
        console=console,
        comm=comm,
        meter=meter,
        temperature=recipe.sampling.temperature,
        kl=recipe.loss.kl_coef,
    )
    wanted = recipe.checkpoint
    kept = {"folder": folder / "bad", "limit": wanted.max_nonfinite_updates, "dtype": precision(recipe)}
    return Guarded(policy, **kept, comm=comm, tell=console.line)


def _audited_judges(recipe: Recipe, console: Console, comm: Comm) -> tuple[RewardScorer, Judge]:
    """The recipe's rewards, after a table of what policies that game them would earn; and evaluation's own judge."""
    recipe.reward.check_format(reasoning=recipe.model.reasoning)
    check_judge_name(recipe.held_out.judge)
    custom = load_custom_rewards(recipe.reward)  # what the user got wrong is found before a judge is loaded
    judge = make_judge(recipe.reward.judge, console=console)
    score = RewardScorer(recipe.reward, reasoning=recipe.model.reasoning, judge=judge, custom=custom)
    if comm.rank == 0:
        Terminal().print(table(audit(recipe.reward, reasoning=recipe.model.reasoning, judge=judge)))
    same = recipe.held_out.judge == recipe.reward.judge
    return score, judge if same else make_judge(recipe.held_out.judge, console=console)


def _starting_model(recipe: Recipe, console: Console, comm: Comm, questions: assemble.Questions) -> str:
    """The folder of the weights that training starts from: an earlier stage's, the warm-up's, or the base model's."""
    start = assemble.start_folder(recipe)
    if start is None and recipe.sft.steps:
        return str(run_warm_up(recipe, console, comm, questions=questions))
    return comm.first(lambda: locate(start or recipe.model.name, console=console))
