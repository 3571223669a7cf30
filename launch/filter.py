"""Keep the questions that can teach: `python -m launch.filter RECIPE.toml ... --keep 300 --out kept.jsonl`.

Samples every training question of the recipes `--samples` times with the model that training would start from, and
keeps those with the largest p(1 - p). The new file is data for training: `DATA=kept.jsonl`. The sampled answers stay in
`--answers`, so that the same command resumes after a kill. Overrides as in training.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console as Terminal

from curriculum.difficulty import Tally, histogram, keep_hardest
from grpo.data.example import Example, to_record, train_heldout_split
from grpo.data.files import check_new_file, write_jsonl
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.data import check_count, load_questions, load_sources
from launch.builders.models import starting_weights
from launch.builders.prompts import make_prompt_codec
from launch.builders.rollout import refuse_server
from launch.config.recipe import TRANSFORMS, DataConfig, Recipe, load_recipe
from launch.runs.answers import Answer, FixedModel, prompt_name
from rewards.answer import accepted_answers, parse
from rewards.zero_variance import is_right


def main(argv: Sequence[str]) -> int:
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m launch.filter", allow_abbrev=False, description=f"{first}{rest}")
    parser.add_argument("--keep", type=int, default=2500, metavar="N", help="questions to keep at most (default 2500)")
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="samples of each question (default 16)")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="new file for the kept questions")
    parser.add_argument("--answers", metavar="FOLDER", help="folder of the sampled answers (default: OUT.answers)")
    options, recipes = parser.parse_known_args(argv)
    console = Console()
    try:
        if options.keep < 1 or options.samples < 2:
            raise UserError(
                f"--keep {options.keep} --samples {options.samples}; valid: 1 or more to keep, 2 or more samples"
            )
        recipe, out = load_recipe(recipes), Path(options.out)
        with console.alive():
            answers = Path(options.answers or f"{out}.answers")
            filter_questions(recipe, out, answers, keep=options.keep, samples=options.samples, console=console)
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    return 0


def filter_questions(recipe: Recipe, out: Path, answers: Path, *, keep: int, samples: int, console: Console) -> None:
    """Write the kept training questions to `out`, and all held-out ones, so that a run on `out` holds out the same."""
    check_new_file(out)
    refuse_server(recipe.rollout)
    data = recipe.data_with_refusals
    examples = load_questions(data, recipe.sft, recipe.held_out, console, warm_up=False).train
    check_count(len(examples), recipe.data, console)
    _, held_out = train_heldout_split(load_sources(data, recipe.sft, console), held_out=data.held_out)
    base = starting_weights(recipe.model, recipe.run.folder, console)
    codec = make_prompt_codec(recipe.model, base, console, max_tokens=recipe.sampling.max_tokens)
    prompts = {prompt_name(example.id, prompt): prompt for example in examples for prompt in [codec.render(example)]}
    rollout, sampling = recipe.fixed_rollout, recipe.sampling.replace(group_size=samples)
    model = FixedModel(folder=base, codec=codec, model=recipe.model, policy=recipe.policy, rollout=rollout)
    sampled = model.answer(prompts, sampling, answers, seed=recipe.run.seed, console=console)
    form = {"reasoning": recipe.model.reasoning, "refusals": recipe.model.refusals}
    tallies = {e.id: tally(e, group, **form) for e, group in zip(examples, sampled, strict=True)}
    kept = keep_hardest(examples, tallies, keep)
    ids = frozenset(example.id for example in kept)
    Terminal().print(histogram(list(tallies.values()), ids))
    write_jsonl(out, ({**to_record(example), **transform_mark(recipe.data)} for example in (*kept, *held_out)))
    console.line(f"kept         {len(kept)} of {len(examples)} questions, and {len(held_out)} held-out ones -> {out}")


def tally(example: Example, answers: Sequence[Answer], *, reasoning: bool, refusals: Sequence[str]) -> Tally:
    """How many answers to a question are right, by `rewards.zero_variance.is_right`."""
    form = {"style": example.style, "reasoning": reasoning, "names": accepted_answers(example), "refusals": refusals}
    parsed = (parse(a.text, **form, finished=not a.truncated) for a in answers)
    return Tally(id=example.id, right=sum(is_right(example, answer, refusals) for answer in parsed), of=len(answers))


def transform_mark(data: DataConfig) -> dict[str, str]:
    """A field for each record that names the transforms done to it, so that training does not transform it again.

    Untransformed questions cannot be written instead: of a question's two variants one may be kept and the other not.
    """
    done = [f"data.{name} = {value}" for name in TRANSFORMS if (value := getattr(data, name))]
    return {"transformed": ", ".join(done)} if done else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
