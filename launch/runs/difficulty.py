"""How often does the start model get each question right? Sampled on the recipe's rollout engine, kept in a cache."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console as Terminal

from curriculum.difficulty import Cache, Tally, cache_key, histogram, keep_hardest
from curriculum.jsonl import check_free, to_record, write_jsonl
from grpo.config import load
from grpo.data.example import Example, train_heldout_split
from grpo.data.prompts import fill_template, load_system_prompt
from grpo.distributed.communicator import Alone
from grpo.telemetry.run_logger import Console
from grpo.types import Group
from launch.builders import assemble
from launch.builders.models import fingerprint, locate
from launch.builders.rollout import choose_rollout, make_rollout, refuse_server
from launch.config.recipe import TRANSFORMS, Recipe
from launch.runs.asking import sampled
from rewards.answer import parse
from rewards.zero_variance import right


def filter_questions(arguments: argparse.Namespace, recipe: Recipe, console: Console) -> Path:
    """Sample, keep, write `arguments.out`, and return it.

    The file holds the kept training questions, and beside them all that the recipe's split holds out, so that a run on
    it is measured on the same questions as one on the whole data.
    """
    out = Path(arguments.out)
    check_free(out)
    refuse_server(recipe)
    examples = assemble.load_questions(recipe, console).train
    _, held_out = train_heldout_split(assemble.all_examples(recipe, console), held_out=recipe.data.held_out)
    tallies = sample_all(recipe, examples, arguments, console)
    kept = keep_hardest(examples, tallies, arguments.keep)
    ids = frozenset(example.id for example in kept)
    Terminal().print(histogram([tallies[example.id] for example in examples], ids))
    write_jsonl(out, ({**to_record(example), **marks(recipe)} for example in (*kept, *held_out)))
    console.line(f"kept         {len(kept)} of {len(examples)} questions, and {len(held_out)} held-out ones -> {out}")
    return out


def marks(recipe: Recipe) -> dict[str, str]:
    """What else each record says: which transforms of the recipe have made it, so that none is done to it again.

    The originals cannot be kept instead: of a question's two forms one may be kept and the other not, and distractors
    are drawn from all the passages that there were.
    """
    done = [f"data.{name} = {value}" for name in TRANSFORMS if (value := getattr(recipe.data, name))]
    return {"transformed": ", ".join(done)} if done else {}


def sample_all(
    recipe: Recipe, examples: Sequence[Example], arguments: argparse.Namespace, console: Console
) -> dict[str, Tally]:
    """A tally of each example; those of the cache are not sampled again. No model is loaded where all are there."""
    start = assemble.start_folder(recipe)
    base = locate(start or recipe.model.name, console=console)
    cache = Cache(Path(arguments.cache or f"{arguments.out}.cache"), made_with(recipe, base, arguments.samples))
    left = [example for example in examples if cache_key(example) not in cache.tallies]
    console.line(f"filter       {len(examples)} questions x {arguments.samples} samples, {len(left)} left to ask")
    if left:
        speech = assemble.make_speech(recipe, base, console)
        engine = choose_rollout(recipe, base, console)
        rollout = make_rollout(engine, recipe, base, speech, console, Alone())
        asked, stream = 0, str(recipe.run.seed)
        for groups in sampled(rollout, left, speech.render, recipe, samples=arguments.samples, stream=stream):
            cache.add([tally(group, reasoning=recipe.model.reasoning) for group in groups])
            asked += len(groups)
            console.line(f"{'':12} {asked} of {len(left)} asked")
    return {example.id: replace(cache.tallies[cache_key(example)], id=example.id) for example in examples}


def tally(group: Group, *, reasoning: bool) -> Tally:
    """How many of a group's completions are right: as `rewards.zero_variance.right` says."""
    style = group.example.style
    answers = [parse(c.text, style=style, reasoning=reasoning, finished=c.finish == "stop") for c in group.completions]
    return Tally(
        id=cache_key(group.example), right=sum(right(group.example, answer) for answer in answers), of=len(answers)
    )


def made_with(recipe: Recipe, base: str, samples: int) -> dict[str, object]:
    """What a tally depends on, by the names that a complaint about another cache gives."""
    s, reasoning = recipe.sampling, recipe.model.reasoning
    system = fill_template(load_system_prompt(recipe.prompt_file), reasoning=reasoning)
    prompt = hashlib.sha256(system.encode()).hexdigest()[:12]
    model = hashlib.sha256(json.dumps(fingerprint(base)).encode()).hexdigest()[:12]
    return {
        "model": f"{base} ({model})",
        "samples": samples,
        "max_tokens": s.max_tokens,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "reasoning": reasoning,  # of the template too, and of how an answer is read
        "prompt": prompt,
        "seed": recipe.run.seed,
    }


def run_filter(arguments: argparse.Namespace, recipes: Sequence[str], console: Console) -> None:
    """What `python -m curriculum.filter` does once its own arguments are read."""
    recipe = load(Recipe, recipes)
    with console.alive():
        filter_questions(arguments, recipe, console)
