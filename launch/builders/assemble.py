"""Recipe -> the concrete objects of a run, but for what writes the completions: that is launch/builders/rollout.py."""

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from curriculum.mixing import mix
from curriculum.reference_answers import reference_completion
from curriculum.refusal_pairs import add_unanswerable_twins
from grpo.config import dump
from grpo.data.example import Example, train_heldout_split
from grpo.data.prompts import load_system_prompt, make_prompt_renderer
from grpo.distributed.communicator import Communicator, check_divisible
from grpo.errors import UserError
from grpo.loop import LoopConfig
from grpo.policy.base import PolicyEngine
from grpo.policy.nonfinite import NonFiniteLog
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.zero_config import zero_config
from grpo.settings import PolicyConfig
from grpo.telemetry.console import Console
from grpo.telemetry.throughput import ThroughputMeter
from grpo.types import Completion, Group, PromptRenderer
from launch.builders.data import all_examples
from launch.builders.models import fingerprint, load_model, load_tokenizer
from launch.builders.precision import device, max_logprob_gap, precision
from launch.config.recipe import Recipe

STAGES = ("stage1", "factuality-fact")
"""Stages that another stage of ours starts from: `model.init_from` may name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a run trains on, warms up on and is held out of it; disjoint but for training and warm-up."""

    train: list[Example]
    warm_up: list[Example]
    held_out: list[Example]


def load_questions(recipe: Recipe, console: Console) -> Questions:
    """Load or build the examples, split them by question, and mix answerable and unanswerable as the recipe asks."""
    data = recipe.data
    train, held_out = train_heldout_split(all_examples(recipe, console), held_out=data.held_out)
    questions = Questions(
        train=mix(
            train,
            count=data.max_train,
            unanswerable=data.unanswerable,
            seed=data.seed,
            key="data.unanswerable",
            mixture=data.mixture,
        ),
        warm_up=_warm_up_questions(recipe, train, console),
        held_out=_held_out_questions(recipe, held_out, console),
    )
    shown = [f"{len(questions.train)} to train on ({_unanswerable(questions.train)} unanswerable)"]
    shown += [f"{len(questions.warm_up)} to warm up"] if questions.warm_up else []
    shown += [f"{len(questions.held_out)} held out ({_unanswerable(questions.held_out)} unanswerable)"]
    named = data.source if isinstance(data.source, str) else f"{len(data.source)} sources"
    console.line(f"data         {named}: {', '.join(shown)}")
    return questions


def _warm_up_questions(recipe: Recipe, train: Sequence[Example], console: Console) -> list[Example]:
    """In the order in which they are shown; none where nothing will be warmed up, and no refusals without passages."""
    warm = recipe.sft
    if not warm.steps or start_folder(recipe):
        return []
    share = warm.unanswerable if any(example.passages for example in train) else 0.0
    if share < warm.unanswerable:
        console.line("             the questions have no passages, so the warm-up shows no refusal")
    count = warm.steps * warm.examples_per_step
    answerable = mix(train, count=count - int(count * share), unanswerable=0.0, seed=warm.seed, key="sft.steps")
    return add_unanswerable_twins(answerable, share=share, pool=train, seed=warm.seed)


def _held_out_questions(recipe: Recipe, held_out: Sequence[Example], console: Console) -> list[Example]:
    """None where the recipe asks for no table, or where no question fell on that side."""
    wanted = recipe.held_out
    if not wanted.questions:
        return []
    if not held_out:
        console.line(
            f"             no question is held out (data.held_out = {recipe.data.held_out}): there will be no table"
        )
        return []
    return mix(held_out, count=wanted.questions, unanswerable=wanted.unanswerable, seed=0, key="held_out.unanswerable")


def _unanswerable(examples: Sequence[Example]) -> int:
    return sum(not example.answerable for example in examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """How examples become token ids and completions become text, for one tokenizer."""

    tokenizer: Any
    render: PromptRenderer
    recipe: Recipe

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def gold(self, example: Example) -> Group:
        """The example with its gold answer as the one completion, for the supervised warm-up."""
        text = reference_completion(example, reasoning=self.recipe.model.reasoning)
        ids = (*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id)
        completion = Completion(text=text, token_ids=ids, logprobs=(0.0,) * len(ids), finish="stop", version=-1)
        return Group(example=example, prompt_ids=self.render(example), completions=(completion,))


def make_speech(recipe: Recipe, folder: str, console: Console) -> Speech:
    console.status("rendering the prompts")
    tokenizer = load_tokenizer(folder)
    render = make_prompt_renderer(
        tokenizer,
        system=load_system_prompt(recipe.model.system_prompt),
        reasoning=recipe.model.reasoning,
        context=recipe.model.context,
        max_tokens=recipe.sampling.max_tokens,
    )
    return Speech(tokenizer=tokenizer, render=render, recipe=recipe)


def make_policy(
    recipe: Recipe,
    folder: str,
    *,
    optim: AdamWConfig,
    updates: int,
    console: Console,
    comm: Communicator,
    meter: ThroughputMeter,
    temperature: float = 1.0,
    kl: float = 0.0,
    nonfinite: NonFiniteLog | None = None,
) -> PolicyEngine:
    """The policy over the weights in `folder`, followed by `meter`; with a reference model only where kl > 0."""
    from grpo.model.policy_model import PolicyModel
    from grpo.policy.engine import Policy

    console.status(f"loading the policy, {folder}")
    config, dtype = recipe.policy, precision(recipe)
    load: Callable[[], Any] = partial(load_model, folder, device=device())
    if resolve_backend(config, comm.world) == "torch":
        from grpo.policy.torch_backend import TorchBackend

        console.line("updates      one process, plain torch")
        Backend = partial(TorchBackend, dtype=dtype)
    else:
        from grpo.policy.deepspeed_backend import DeepSpeedBackend, init_deepspeed

        init_deepspeed()
        console.line(f"updates      ZeRO-{config.zero_stage}, {comm.world} ranks")
        bf16 = dtype == "bfloat16"
        sharding = zero_config(config, optim, bf16=bf16, world=comm.world) if config.zero_stage == 3 else None
        load = partial(load, bf16=bf16, sharding=sharding)
        Backend = partial(DeepSpeedBackend, config=config, comm=comm)
    model = load()
    check_positions(recipe, model, folder)
    meter.counter.attach(model)
    policy_model = PolicyModel(
        model,
        layout=config.layout,
        temperature=temperature,
        gradient_checkpointing=config.gradient_checkpointing,
        reference=load() if kl else None,
    )
    policy = Policy(
        Backend(policy_model, optim),
        total_updates=updates,
        token_budget=config.token_budget,
        comm=comm,
        nonfinite=nonfinite,
        progress=console.status,
    )
    meter.shared = policy.layout == "shared"  # what "auto" has come to for this model
    return policy


def resolve_backend(p: PolicyConfig, ranks: int) -> Literal["torch", "deepspeed"]:
    """The backend of the policy over so many ranks. UserError if the recipe's cannot be used."""
    needed = f"{ranks} ranks" if ranks > 1 else f'policy.offload = "{p.offload}"' if p.offload != "none" else ""
    if p.backend == "torch" and (wrong := needed or ("policy.zero_stage = 3" if p.zero_stage == 3 else "")):
        raise UserError(f'policy.backend = "torch" is not for {wrong}; valid: "deepspeed" or "auto"')
    if p.backend != "deepspeed" and not needed:
        return "torch"
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f'policy.backend = "deepspeed"{", for " + needed if needed else ""}: DeepSpeed is not installed (make '
            'setup says why); valid without it: one rank and policy.offload = "none"'
        )
    return "deepspeed"


def check_ranks(recipe: Recipe, ranks: int, *, warm_up: bool) -> None:
    """UserError, before anything heavy loads, where this recipe's batches cannot be shared by so many ranks."""
    resolve_backend(recipe.policy, ranks)
    prompts, parts = recipe.sampling.prompts_per_step, recipe.loss.updates_per_step
    check_divisible(prompts, ranks, "sampling.prompts_per_step")
    if warm_up:
        check_divisible(recipe.sft.examples_per_step, ranks, "sft.examples_per_step")
    if parts > prompts // ranks:
        raise UserError(
            f"loss.updates_per_step = {parts} parts cannot be made of the {prompts // ranks} groups of a rank; at most "
            "that many"
        )


def loop_config(recipe: Recipe, *, steps: int) -> LoopConfig:
    s, loss = recipe.sampling, recipe.loss
    if loss.advantage == "per_reward" and s.dynamic != "off":
        raise UserError(
            f'sampling.dynamic = "{s.dynamic}" leaves out groups whose totals are alike, and by loss.advantage = '
            '"per_reward" their parts can teach; valid: sampling.dynamic = "off"'
        )
    return LoopConfig(
        steps=steps,
        loss=loss,
        max_tokens=s.max_tokens,
        max_logprob_gap=max_logprob_gap(recipe),
        reward_weights=recipe.reward.weights,
        seed=recipe.run.seed,
    )


def warm_up_folder(recipe: Recipe, questions: Questions) -> Path:
    """The run folder of this recipe's warm-up, named by content.

    The name holds a hash of all that makes the warm-up what it is, the questions themselves included, so
    that a run can never start from a warm-up of something else.
    """
    w, p = recipe.sft, recipe.policy
    parts = [fingerprint(recipe.model.name), load_system_prompt(recipe.model.system_prompt), recipe.model.reasoning]
    parts += [w.model_dump(), p.dtype, p.layout, p.token_budget, [asdict(example) for example in questions.warm_up]]
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
    return Path(recipe.run.folder) / f"sft-{recipe.model.label}-{digest}"


def start_folder(recipe: Recipe) -> str | None:
    """The model folder that `model.init_from` names, itself or as a run that has one, or None for "base"."""
    start = recipe.model.init_from
    if start == "base":
        return None
    if start in STAGES:
        folder = Path(recipe.run.folder) / f"{start}-{recipe.model.label}" / "model"
        if not folder.is_dir():
            raise UserError(
                f'model.init_from = "{start}": {folder} is not there; run `make train-{start}` first, '
                "or give a model folder: --model.init_from=FOLDER (make: FROM=FOLDER)"
            )
        return str(folder)
    if not Path(start).is_dir():
        valid = ", ".join(f'"{stage}"' for stage in STAGES)
        raise UserError(
            f'model.init_from = {start!r}: no such folder; valid: "base", {valid}, or a model or run folder'
        )
    is_run = (Path(start) / "model").is_dir() and not (Path(start) / "config.json").exists()
    return str(Path(start) / "model") if is_run else start


def save_recipe(recipe: Recipe, folder: Path) -> None:
    """The whole recipe, and the system prompt that it names: the file may change, the run was made with this one."""
    (folder / "prompt.txt").write_text(load_system_prompt(recipe.model.system_prompt) + "\n", encoding="utf-8")
    new = folder / ".recipe.toml.new"
    new.write_text(dump(recipe), encoding="utf-8")
    new.rename(folder / "recipe.toml")  # complete or absent


def check_positions(recipe: Recipe, model: Any, folder: str) -> None:
    """UserError where the recipe's context is longer than the model has positions."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", recipe.model.context)
    if recipe.model.context > limit:
        raise UserError(f"model.context = {recipe.model.context}: {folder} has positions for {limit}; at most that")
