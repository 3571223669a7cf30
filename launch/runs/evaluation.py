"""One evaluation from a recipe: choose questions and demonstrations, sample answers, score them.

The folder has the answers as they come (answers.jsonl), then predictions.jsonl and scores.json. A killed evaluation
resumes by the same command with its `run.name`, and gets the answers of one that was never stopped.
"""

import hashlib
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal

from eval.compare import print_beside_paper
from eval.predictions import QUESTIONS, Prediction, read_questions, write_predictions, write_questions
from eval.score import score_predictions, table, write_scores
from grpo.data.example import DATA_TYPES, Example, Style, train_heldout_split
from grpo.data.prompts import load_system_prompt, make_prompt_renderer
from grpo.data.text import normalize
from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import require_new_folder
from grpo.types import PromptRenderer, Sampling, TokenIds
from launch.builders.data import check_gold, load_sources
from launch.builders.models import locate, starting_model
from launch.builders.prompts import make_prompt_codec
from launch.builders.rewards import make_judge
from launch.config.recipe import DataConfig, EvalConfig, ModelConfig, Recipe, RunConfig, SFTConfig
from launch.runs.answers import FILE, FixedModel, prompt_name
from launch.runs.few_shot import choose_demonstrations, with_demonstrations
from launch.runs.run import save_recipe
from launch.runs.run_lock import LOCK
from rewards.judges.load import check_judge_name

PREDICTIONS, SCORES = "predictions.jsonl", "scores.json"


def run_evaluation(recipe: Recipe, console: Console) -> Path:
    """Answer, score, and return the folder. Errors of the user are found before the folder is made.

    A folder with answers but without all scores is resumed, if its answers were made as `recipe` says.
    """
    check_judge_name(recipe.eval.judge)
    start = starting_model(recipe.model, recipe.run.folder)
    _refuse_training_questions(recipe.data, recipe.eval, start)
    model = _with_trained_prompt(recipe.model, start)
    recipe = recipe.replace(model=model)
    check_gold(recipe.data)
    sources = recipe.data_with_refusals
    data = load_sources(sources, recipe.sft, console, choose="first")
    possible = _without_trained(possible_questions(recipe.eval, recipe.data, data), start, console)
    asked = choose_questions(possible, recipe.eval.questions, seed=recipe.data.seed)
    refusals = sum(not example.answerable for example in asked)
    console.line(f"data         {recipe.data.source}: {len(asked)} questions ({refusals} unanswerable)")
    folder = _folder(recipe.run, model.label, asked)
    pool = _unasked(recipe.eval, sources, data, recipe.sft, console) if recipe.shots else []
    shown = choose_demonstrations(recipe.eval, recipe.shots, asked, pool)
    base = locate(start or model.name, console=console)
    codec = make_prompt_codec(model, base, console, max_tokens=recipe.eval_max_tokens)
    render = _make_renderer(model, codec.tokenizer, shown, shots=recipe.shots, max_tokens=recipe.eval_max_tokens)
    codec = replace(codec, render=render)
    prompts = {prompt_name(e.id, prompt): prompt for e in asked for prompt in [codec.render(e)]}

    console.line(f"model        {base}, {sum(map(len, shown.values()))} demonstrations")
    console.line(f"answers      {folder / FILE}; to resume after a kill: --run.name={folder.name} (make: NAME=)")
    s, limit = recipe.eval, recipe.eval_max_tokens
    sampling = Sampling(group_size=1, max_tokens=limit, temperature=s.temperature, top_p=s.top_p)
    fixed = FixedModel(folder=base, codec=codec, model=model, policy=recipe.policy, rollout=recipe.fixed_rollout)
    answers = fixed.answer(
        prompts,
        sampling,
        folder,
        seed=recipe.eval.seed,
        about={  # the digest of the prompts, and above it what changes them
            "data.source": recipe.data.source,
            "model.prompt": recipe.model.prompt,
            "demonstrations": {style: [example.id for example in examples] for style, examples in shown.items()},
            "prompts": hashlib.sha256(repr(list(prompts)).encode()).hexdigest()[:12],
        },
        console=console,
    )
    save_recipe(recipe, folder)
    write_questions(folder, {"held_out": asked})
    predictions = [Prediction(e, a.text, a.truncated) for e, (a,) in zip(asked, answers, strict=True)]
    _score(recipe.eval, predictions, folder, model, console)
    return folder


def possible_questions(wanted: EvalConfig, data: DataConfig, examples: Sequence[Example]) -> list[Example]:
    """The held-out part of the data, or all of it."""
    found = list(examples) if wanted.split == "all" else train_heldout_split(examples, held_out=data.held_out)[1]
    if not found:
        raise UserError(
            f"data.held_out = {data.held_out}: no question of {data.source} is held out; valid: "
            "a larger share, or --eval.split=all"
        )
    return found


def choose_questions(examples: Sequence[Example], count: int, *, seed: int) -> list[Example]:
    """A random sample of `count` examples, in their order; all where they are fewer, or where `count` is 0."""
    if not 0 < count < len(examples):
        return list(examples)
    kept = random.Random(seed).sample(range(len(examples)), count)
    return [examples[place] for place in sorted(kept)]


def _run_of(model: str | None) -> Path | None:
    """The folder of the run that made the model folder `model`; None for other models."""
    above = Path(model).parents[:3] if model else ()  # as deep as runs/NAME/checkpoints/step-000004/model
    return next((folder for folder in above if (folder / "recipe.toml").is_file()), None)


def _without_trained(asked: Sequence[Example], start: str | None, console: Console) -> list[Example]:
    """The questions that the run of the model was not trained on, by its questions.jsonl."""
    run = _run_of(start)
    if run is None or not (run / QUESTIONS).is_file():
        return list(asked)
    trained = {**read_questions(run, split="train"), **read_questions(run, split="warm_up")}
    seen = {normalize(example.question) for example in trained.values()}
    kept = [example for example in asked if normalize(example.question) not in seen]
    if not kept:
        raise UserError(f"{run / QUESTIONS}: every question was trained on; expected --data.source of other questions")
    if len(kept) < len(asked):
        console.line(f"             {len(asked) - len(kept)} questions were trained on ({run / QUESTIONS}): not asked")
    return kept


def _unasked(
    wanted: EvalConfig, data: DataConfig, examples: Sequence[Example], sft: SFTConfig, console: Console
) -> list[Example]:
    """The pool of demonstrations: the training part of the data, or eval.shots_from."""
    if not wanted.shots_from:
        return train_heldout_split(examples, held_out=data.held_out)[0]
    return load_sources(data.replace(source=wanted.shots_from), sft, console)


def _folder(run: RunConfig, label: str, asked: Sequence[Example]) -> Path:
    """A free name, or the given one. UserError where a finished evaluation or something else has it."""
    runs = Path(run.folder)
    if not run.name:
        free = (runs / f"eval-{label}-{number}" for number in range(1, 100_000))
        return next(folder for folder in free if not folder.exists())
    folder = runs / run.name
    files = {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
    if files and (FILE not in files or all((place / SCORES).is_file() for place in _places(folder, asked).values())):
        require_new_folder(folder)
    return folder


def _part(example: Example) -> str:
    """What a question is scored with: its data set, if it is one of the paper, else all questions of its style."""
    return example.source if example.source in DATA_TYPES else example.style


def _places(folder: Path, asked: Sequence[Example]) -> dict[str, Path]:
    """The folder of the scores of each part."""
    parts = sorted({_part(example) for example in asked})
    return {part: folder if len(parts) == 1 else folder / part for part in parts}


def _score(
    wanted: EvalConfig, predictions: Sequence[Prediction], folder: Path, model: ModelConfig, console: Console
) -> None:
    """Write predictions.jsonl and the scores, and print them.

    Several data sets and styles are scored one by one, each in a folder of its own. Each style has rules of its own for
    statements and right answers. Below the scores of a data set of the paper are its rows of the model.
    """
    _write(folder / PREDICTIONS, predictions)
    judge = make_judge(wanted.judge, console=console)
    for part, place in _places(folder, [prediction.example for prediction in predictions]).items():
        console.status(f"scoring the {part} answers")
        some = [prediction for prediction in predictions if _part(prediction.example) == part]
        if place != folder:
            place.mkdir(exist_ok=True)
            _write(place / PREDICTIONS, some)
        report = score_predictions(
            some,
            judge,
            nli=wanted.judge,
            reference=wanted.reference,
            reasoning=model.reasoning,
            refusals=model.refusals,
        )
        write_scores(place / SCORES, report)
        terminal = Terminal()
        terminal.print(table(report, title=str(place)))
        if part in DATA_TYPES:
            print_beside_paper(place, model.label.removeprefix("r1-"), part, terminal)


def _write(path: Path, predictions: Sequence[Prediction]) -> None:
    path.unlink(missing_ok=True)  # a kill before the scores has left it
    write_predictions(path, predictions)


def _refuse_training_questions(data: DataConfig, wanted: EvalConfig, start: str | None) -> None:
    """UserError where some questions that the run was trained on would be asked."""
    run = _run_of(start)
    if run is None or wanted.split != "held_out":
        return
    trained = run / "recipe.toml"
    before = tomllib.loads(trained.read_text(encoding="utf-8")).get("data", {})
    source = before.get("source", data.source)
    if (tuple(source) if isinstance(source, list) else source) != data.source:  # TOML has no tuples
        return
    for name in ("held_out", "seed"):
        now = getattr(data, name)
        was = before.get(name, now)
        if was != now:
            raise UserError(
                f"{trained}: trained with data.{name} = {was}; with {now} some of its training questions would "
                f"be asked; valid: --data.{name}={was}"
            )


def _with_trained_prompt(model: ModelConfig, start: str | None) -> ModelConfig:
    """The section with the system prompt that the run of the model kept, unless the recipe names another."""
    run = _run_of(start)
    if run is None or model.prompt or not (run / "prompt.txt").is_file():
        return model
    return model.replace(prompt=str(run / "prompt.txt"))


def _make_renderer(
    model: ModelConfig, tokenizer: Any, shown: Mapping[Style, Sequence[Example]], *, shots: int, max_tokens: int
) -> PromptRenderer:
    """The renderer of prompts; each style has its demonstrations behind the system prompt."""
    instruction = load_system_prompt(model.system_prompt)
    renderers = {
        style: make_prompt_renderer(
            tokenizer,
            system=with_demonstrations(instruction, examples, reasoning=model.reasoning, refusal=model.refusals[0]),
            reasoning=model.reasoning,
            refusal=model.refusals[0],
            context=model.context,
            max_tokens=max_tokens,
        )
        for style, examples in shown.items()
    }

    def render(example: Example) -> TokenIds:
        try:
            return renderers[example.style](example)
        except UserError as error:  # the limit on answers has another key in training
            fewer = f" or eval.shots below {shots}" if shots else ""
            raise UserError(str(error).replace("sampling.max_tokens", "eval.max_tokens") + fewer) from None

    return render
