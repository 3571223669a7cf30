"""One evaluation from a recipe: choose questions, show how it is done, write the answers down as they come, score.

`predictions.jsonl` grows by a batch at a time. A batch is the same questions with the same seed however often the
evaluation was killed, so that one that goes on writes the same bytes as one that was never stopped.
"""

import hashlib
import json
import os
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console as Terminal

from eval.predictions import Prediction, prediction_line
from eval.score import score_file, table
from grpo.checkpointing.atomic_directory import atomic_directory
from grpo.config import load
from grpo.data.example import Example, Style, train_heldout_split
from grpo.data.prompts import load_system_prompt, make_prompt_renderer
from grpo.distributed.communicator import SingleProcess
from grpo.errors import UserError
from grpo.rollout.base import RolloutEngine
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import require_new_folder
from grpo.types import Sampling, TokenIds
from launch.builders import assemble
from launch.builders.models import fingerprint, load_tokenizer, locate, make_judge
from launch.builders.rollout import choose_rollout, make_rollout
from launch.config.recipe import Recipe
from launch.runs.few_shot import Shown, choose_demonstrations, with_demonstrations
from rewards.judges.base import check_judge_name

ANSWERS, SCORES, INPUTS = "predictions.jsonl", "scores.json", "inputs.json"
SCORING = {"judge", "reference"}  # of [eval]: they change the scores, not the answers


def run_evaluation(recipe: Recipe, console: Console) -> Path:
    """Answer, score, and return the folder. What the user can get wrong is found before the folder is made.

    A folder with answers but without all scores is gone on with, if its answers were made as `recipe` says. Any other
    folder that is there already is refused.
    """
    check_judge_name(recipe.eval.judge)
    start = assemble.start_folder(recipe)
    _check_trained(recipe, start, console)
    recipe = _with_trained_prompt(recipe, start)
    folder = _folder(recipe)
    data = assemble.all_examples(recipe, console)
    asked = choose_questions(recipe, data)
    refusals = sum(not example.answerable for example in asked)
    console.line(f"data         {recipe.data.source}: {len(asked)} questions ({refusals} unanswerable)")
    shown = choose_demonstrations(recipe, asked, _unasked(recipe, data, console))
    base = locate(start or recipe.model.name, console=console)
    instruction = load_system_prompt(recipe.model.system_prompt)
    systems: dict[Style, str] = {
        style: with_demonstrations(instruction, examples, reasoning=recipe.model.reasoning)
        for style, examples in shown.items()
    }
    speech = _make_speech(recipe, base, systems, console)
    prompts = [speech.render(example) for example in asked]  # one that is too long is found here

    engine = choose_rollout(recipe, base, console)
    digest = _digest(recipe, engine, base, systems, asked)
    begun = (folder / INPUTS).is_file()
    if begun:
        _check_same(folder, recipe, digest)
    done = count_answers(folder / ANSWERS, asked, console)
    console.line(f"model        {base}, {recipe.shots} demonstrations")
    rollout = make_rollout(engine, recipe, base, speech, console, SingleProcess()) if done < len(asked) else None
    if not begun:
        with atomic_directory(folder) as work:  # a folder without its inputs could not be resumed
            assemble.save_recipe(recipe, work)
            _save_inputs(work, digest, base, asked, shown)
            require_new_folder(folder)
    console.line(f"answers      {folder / ANSWERS}; if this is killed, --run.name={folder.name} (make: NAME=) goes on")
    if rollout:
        write_answers(rollout, asked, prompts, recipe, path=folder / ANSWERS, done=done, console=console)
    _score(recipe, asked, folder, console)
    return folder


def choose_questions(recipe: Recipe, data: Sequence[Example]) -> list[Example]:
    """The held-out part of the data, or all of it; of that a random sample where eval.questions asks for fewer."""
    asked = list(data) if recipe.eval.split == "all" else train_heldout_split(data, held_out=recipe.data.held_out)[1]
    if not asked:
        raise UserError(
            f"data.held_out = {recipe.data.held_out}: no question of {recipe.data.source} is held out; valid: "
            "a larger share, or --eval.split=all"
        )
    count = recipe.eval.questions or len(asked)
    if count < len(asked):
        kept = random.Random(recipe.data.seed).sample(range(len(asked)), count)
        asked = [asked[place] for place in sorted(kept)]
    return asked


def write_answers(
    rollout: RolloutEngine,
    asked: Sequence[Example],
    prompts: Sequence[TokenIds],
    recipe: Recipe,
    *,
    path: Path,
    done: int,
    console: Console,
) -> None:
    """Append an answer to each question from number `done` on, a line each, in the order of `asked`."""
    wanted = recipe.eval
    sampling = Sampling(
        group_size=1, max_tokens=recipe.eval_max_tokens, temperature=wanted.temperature, top_p=wanted.top_p
    )
    rows, cut_off = recipe.rollout.max_num_seqs, 0
    for batch in range(done // rows, -(-len(asked) // rows)):
        start, end = batch * rows, min((batch + 1) * rows, len(asked))
        # A batch that was cut short is answered again as a whole: its questions share one stream of random numbers.
        written = rollout.generate(prompts[start:end], sampling, seed=wanted.seed * 1_000_003 + batch)
        answers = [completion for (completion,) in written]
        first = max(start, done)
        with path.open("a", encoding="utf-8") as file:
            for example, answer in zip(asked[first:end], answers[first - start :], strict=True):
                file.write(prediction_line(Prediction(example, answer.text, answer.finish == "length")))
        cut_off += sum(answer.finish == "length" for answer in answers[first - start :])
        console.line(f"{'':12} {end} of {len(asked)} answered, {cut_off} cut off at {recipe.eval_max_tokens} tokens")


def count_answers(path: Path, asked: Sequence[Example], console: Console) -> int:
    """How many of `asked` the file answers. A last line that a kill has torn is cut off; UserError where the lines are
    not the answers to `asked`, in order."""
    if not path.exists():
        return 0
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        console.line(f"{'':12} the last line of {path} was cut short; its question is asked again")
        os.truncate(path, whole)
    lines = raw[:whole].decode("utf-8").split("\n")[:-1]
    for number, line in enumerate(lines, 1):
        expected = asked[number - 1].id if number <= len(asked) else "the end of the file"
        try:
            found = json.loads(line)["id"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: not an answer of this evaluation; expected {expected}") from None
        if found != expected:
            raise UserError(
                f"{path}:{number}: id {found!r}; expected {expected!r}: it was changed since it was written"
            )
    if lines:
        console.line(f"{'':12} {len(lines)} of {len(asked)} are answered already")
    return len(lines)


def _unasked(recipe: Recipe, data: Sequence[Example], console: Console) -> list[Example]:
    """Where demonstrations may come from: the training part of the data, or eval.shots_from."""
    if not recipe.shots:
        return []
    if not recipe.eval.shots_from:
        return train_heldout_split(data, held_out=recipe.data.held_out)[0]
    return assemble.all_examples(recipe.replace(data=recipe.data.replace(source=recipe.eval.shots_from)), console)


def _score(recipe: Recipe, asked: Sequence[Example], folder: Path, console: Console) -> None:
    """Scores beside the answers. Several styles are scored one by one, each in a folder of its own: each has rules of
    its own for what a statement and a right answer are, and their mean is no number of the field."""
    judge = make_judge(recipe.eval.judge, console=console)
    lines = (folder / ANSWERS).read_text(encoding="utf-8").split("\n")
    for style, place in _places(folder, {example.style for example in asked}).items():
        console.status(f"scoring the {style} answers")
        if place != folder:
            place.mkdir(exist_ok=True)
            own = [line for example, line in zip(asked, lines, strict=False) if example.style == style]
            (place / ANSWERS).write_text("\n".join([*own, ""]), encoding="utf-8")
        report = score_file(
            place / ANSWERS,
            judge,
            style=style,
            nli=recipe.eval.judge,
            reference=recipe.eval.reference,
            reasoning=recipe.model.reasoning,
            out=place / SCORES,
        )
        Terminal().print(table(report, title=str(place)))


def _places(folder: Path, styles: set[Style]) -> dict[Style, Path]:
    """Where the scores of each style are written."""
    return {style: folder if len(styles) == 1 else folder / style for style in sorted(styles)}


def _folder(recipe: Recipe) -> Path:
    """A name that is free, or the one that was given: free, or of an evaluation that has not come to its scores."""
    runs = Path(recipe.run.folder)
    if not recipe.run.name:
        free = (runs / f"eval-{recipe.model.label}-{number}" for number in range(1, 100_000))
        return next(folder for folder in free if not folder.exists())
    folder = runs / recipe.run.name
    inputs = folder / INPUTS
    if not inputs.is_file():
        require_new_folder(folder)
        return folder
    styles = set(json.loads(inputs.read_text(encoding="utf-8"))["styles"])
    if all((place / SCORES).is_file() for place in _places(folder, styles).values()):
        require_new_folder(folder)
    return folder


def _check_same(folder: Path, recipe: Recipe, digest: str) -> None:
    """UserError where the answers in the folder are of another model, prompt, sampling or other questions."""
    if json.loads((folder / INPUTS).read_text(encoding="utf-8"))["digest"] == digest:
        return
    there = load(Recipe, [str(folder / "recipe.toml")])
    changed = []
    for section in ("model", "data", "rollout", "eval"):
        before, now = (dict(getattr(side, section)) for side in (there, recipe))
        for name in before.keys() - SCORING:
            old, new = before[name], now[name]
            changed += [f"{section}.{name} = {old!r} there and {new!r} now"] if old != new else []
    what = ", ".join(changed) or "the model, the prompt, the data or the rollout engine has changed since"
    raise UserError(f"{folder}: its answers were made otherwise ({what}); valid: the same again, or another NAME=")


def _save_inputs(folder: Path, digest: str, base: str, asked: Sequence[Example], shown: Shown) -> None:
    """What the answers are made from, and by what one tells that it is the same again."""
    inputs = {
        "digest": digest,
        "model": base,
        "questions": len(asked),
        "styles": sorted({example.style for example in asked}),
        "demonstrations": {style: [example.id for example in examples] for style, examples in shown.items()},
    }
    (folder / INPUTS).write_text(json.dumps(inputs, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _digest(recipe: Recipe, engine: str, base: str, systems: Mapping[Style, str], asked: Sequence[Example]) -> str:
    wanted = recipe.eval
    sampling = [recipe.eval_max_tokens, wanted.temperature, wanted.top_p, wanted.seed, recipe.rollout.max_num_seqs]
    parts = [engine, fingerprint(base), sorted(systems.items()), recipe.model.reasoning, sampling]
    return hashlib.sha256(repr([*parts, [asdict(example) for example in asked]]).encode()).hexdigest()[:16]


def _check_trained(recipe: Recipe, start: str | None, console: Console) -> None:
    """UserError where a run's model would be asked what it was trained on, or in a format that it never learned."""
    trained = Path(start).parent / "recipe.toml" if start else None
    if trained is None or not trained.is_file():
        return
    there = tomllib.loads(trained.read_text(encoding="utf-8"))
    data, reasoning = there.get("data", {}), there.get("model", {}).get("reasoning", recipe.model.reasoning)
    if reasoning != recipe.model.reasoning:
        raise UserError(
            f"{trained}: trained with model.reasoning = {reasoning}, and asked with {recipe.model.reasoning}; "
            f"valid: --model.reasoning={str(reasoning).lower()}"
        )
    was = data.get("source", recipe.data.source)
    if (tuple(was) if isinstance(was, list) else was) != recipe.data.source:  # TOML has no tuples
        console.line(f"note         trained on {was}, asked about {recipe.data.source}")
        return
    for name in ("held_out", "seed"):
        was, now = data.get(name, getattr(recipe.data, name)), getattr(recipe.data, name)
        if was != now and recipe.eval.split == "held_out":
            raise UserError(
                f"{trained}: trained with data.{name} = {was}; with {now} some of its training questions would "
                f"be asked; valid: --data.{name}={was}"
            )


def _with_trained_prompt(recipe: Recipe, start: str | None) -> Recipe:
    """A model out of a run is asked with the prompt that the run kept, unless the recipe names one."""
    kept = Path(start).parent / "prompt.txt" if start else None
    if kept is None or recipe.model.prompt or not kept.is_file() or not (kept.parent / "recipe.toml").is_file():
        return recipe
    return recipe.replace(model=recipe.model.replace(prompt=str(kept)))


def _make_speech(recipe: Recipe, base: str, systems: Mapping[Style, str], console: Console) -> assemble.Speech:
    """Prompts with the demonstrations of the question's style in front of it, in the place of the instruction."""
    console.status("rendering the prompts")
    tokenizer = load_tokenizer(base)
    settings = {
        "reasoning": recipe.model.reasoning,
        "context": recipe.model.context,
        "max_tokens": recipe.eval_max_tokens,
    }
    renders = {style: make_prompt_renderer(tokenizer, system=system, **settings) for style, system in systems.items()}

    def render(example: Example) -> TokenIds:
        try:
            return renders[example.style](example)
        except UserError as error:  # the limit on answers has another name here than in training
            fewer = f" or eval.shots below {recipe.shots}" if recipe.shots else ""
            raise UserError(str(error).replace("sampling.max_tokens", "eval.max_tokens") + fewer) from None

    return assemble.Speech(tokenizer=tokenizer, render=render, recipe=recipe)
