"""What does the recipe's model answer under each numbered prompt? Sampled on its rollout engine, kept as it comes."""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console as Terminal

from curriculum.difficulty import cache_key
from eval.closed_book import outcomes
from eval.prompt_sweep import Asked, numbered, point, report
from grpo.config import load
from grpo.data.example import Example
from grpo.distributed.communicator import Alone
from grpo.errors import UserError
from grpo.kept import Kept, Row
from grpo.rollout.base import RolloutEngine
from grpo.telemetry.run_logger import Console
from grpo.types import Group
from launch.builders import assemble
from launch.builders.models import locate
from launch.builders.rollout import choose_rollout, make_rollout, refuse_server
from launch.config.recipe import Recipe
from launch.runs.asking import sampled
from launch.runs.difficulty import made_with
from rewards.answer import parse
from rewards.boxed import final_answer

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A numbered prompt, ready to ask; `key` changes with its text."""

    number: int
    key: str
    speech: assemble.Speech


def run_sweep(arguments: argparse.Namespace, recipes: Sequence[str], console: Console) -> Path:
    """What `python -m eval.prompt_sweep` does once its own arguments are read; returns the folder.

    What the user can get wrong is found before a model is loaded.
    """
    recipe, out = load(Recipe, recipes), Path(arguments.out)
    refuse_server(recipe)
    paths = chosen(numbered(Path(arguments.prompts)), arguments.only)
    with console.alive():
        examples = questions(recipe, console)
        start = assemble.start_folder(recipe)
        base = locate(start or recipe.model.name, console=console)
        prompts = [make_prompt(recipe, base, number, path, console) for number, path in paths.items()]
        for prompt in prompts:
            for example in examples:
                prompt.speech.render(example)  # one that is too long is found here
        kept = open_kept(out, recipe, base, arguments.samples)
        ask_all(prompts, examples, recipe, base=base, samples=arguments.samples, kept=kept, console=console)
    points = {prompt.number: point(asked(prompt, examples, kept)) for prompt in prompts}
    count = f"{len(examples)} questions x {arguments.samples} answers"
    Terminal(width=200).print(report(f"{recipe.model.label}: {count}, percent [95 %]", points, out))
    console.line(f"written      {out}: {ANSWERS}, table.md, numbers.json, curve.png")
    return out


def questions(recipe: Recipe, console: Console) -> list[Example]:
    """The held-out questions; UserError where there are none, or where they are no closed-book questions."""
    examples = assemble.load_questions(recipe, console).held_out
    if not examples:
        raise UserError(
            f"no question is held out (data.held_out = {recipe.data.held_out}, eval.questions = "
            f"{recipe.eval.questions}); expected both above 0"
        )
    if other := next((example for example in examples if example.style != "closed"), None):
        raise UserError(
            f"example {other.id}: style {other.style!r}, and the prompts are for closed-book questions; expected "
            "--data.source=FILE of such (curriculum/datasets/closed_book.py has their shapes)"
        )
    return examples


def chosen(paths: Mapping[int, Path], only: str | None) -> Mapping[int, Path]:
    if only is None:
        return paths
    wanted = [part.strip() for part in only.split(",")]
    if not all(part.isdecimal() and int(part) in paths for part in wanted):
        raise UserError(f"--only {only}: valid: numbers of {', '.join(map(str, paths))}, with commas between them")
    return {number: paths[number] for number in sorted({int(part) for part in wanted})}


def make_prompt(recipe: Recipe, base: str, number: int, path: Path, console: Console) -> Prompt:
    speech = assemble.make_speech(replace(recipe, model=replace(recipe.model, prompt=str(path))), base, console)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Prompt(number=number, key=f"{number} {digest}", speech=speech)


def open_kept(out: Path, recipe: Recipe, base: str, samples: int) -> Kept:
    """The answers so far; the folder is made for them, and may hold nothing else than a sweep."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / ANSWERS).is_file()):
        raise UserError(f"--out {out} is there already and holds no sweep; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    about = made_with(recipe, base, samples)
    del about["prompt"]
    return Kept(out / ANSWERS, about, what="prompt sweep", instead="give another --out")


def ask_all(
    prompts: Sequence[Prompt],
    examples: Sequence[Example],
    recipe: Recipe,
    *,
    base: str,
    samples: int,
    kept: Kept,
    console: Console,
) -> None:
    """Ask what is not in `kept`, a few questions at a time. No model is loaded where nothing is left."""
    done = {(row["prompt"], row["question"]) for row in kept.rows}
    rollout: RolloutEngine | None = None
    for prompt in prompts:
        left = [example for example in examples if (prompt.key, cache_key(example)) not in done]
        console.line(
            f"prompt {prompt.number:<5} {len(examples)} questions x {samples} answers, {len(left)} left to ask"
        )
        if left and rollout is None:
            engine = choose_rollout(recipe, base, console)
            rollout = make_rollout(engine, recipe, base, prompt.speech, console, Alone())
        if left and rollout is not None:
            stream = f"{recipe.run.seed} {prompt.number}"
            for groups in sampled(rollout, left, prompt.speech.render, recipe, samples=samples, stream=stream):
                kept.add([row_of(group, prompt, reasoning=recipe.model.reasoning) for group in groups])


def row_of(group: Group, prompt: Prompt, *, reasoning: bool) -> Row:
    """A question's line: what came of each answer, and each final answer to read it by."""
    read = [parse(completion.text, style="closed", reasoning=reasoning) for completion in group.completions]
    return {
        "prompt": prompt.key,
        "question": cache_key(group.example),
        "outcomes": outcomes(group, reasoning=reasoning),
        "final": [final_answer(answer)[1] for answer in read],
    }


def asked(prompt: Prompt, examples: Sequence[Example], kept: Kept) -> list[Asked]:
    """What came of each question under this prompt; UserError for a file that is damaged."""
    try:
        rows = {row["question"]: row["outcomes"] for row in kept.rows if row["prompt"] == prompt.key}
        return [Asked(example.answerable, tuple(rows[cache_key(example)])) for example in examples]
    except (KeyError, TypeError):
        raise kept.not_ours() from None
