"""The same closed-book questions under every numbered system prompt, from the most eager to the most cautious.

    python -m launch.prompt_sweep configs/factuality-fact.toml configs/models/qwen3-8b.toml --out sweeps/qwen3-8b

Asks the held-out questions of the recipes `--samples` times under each prompt of configs/prompts/factuality, 1 to 8.
The folder gets the sampled answers, table.md, numbers.json and plot.png. The same command resumes after a kill.
Overrides as in training; `--model.init_from=RUN` asks a trained model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console as Terminal

from eval.bootstrap import intervals
from eval.factuality import NAMES, OUTCOMES, factuality_scores, factuality_sums, outcome
from eval.report.experiment import write_report
from eval.report.table import Column
from grpo.data.example import Example
from grpo.data.prompts import PROMPTS
from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.types import Sampling
from launch.builders.data import load_questions
from launch.builders.models import starting_weights
from launch.builders.prompts import make_prompt_codec
from launch.builders.rollout import refuse_server
from launch.config.recipe import DataConfig, HeldOutConfig, Recipe, SFTConfig, load_recipe
from launch.runs.answers import FILE, Answer, FixedModel, prompt_name


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.prompt_sweep",
        usage="python -m launch.prompt_sweep RECIPE.toml ... --out FOLDER [options] [--section.key=value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new folder, or that of a sweep to resume")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="answers to each question (default 8)")
    parser.add_argument(
        "--prompts",
        default=str(PROMPTS / "factuality"),
        metavar="FOLDER",
        help="holds 1.txt, 2.txt, ... (default: ours)",
    )
    options, recipes = parser.parse_known_args(argv)
    console = Console()
    try:
        if options.samples < 1:
            raise UserError(f"--samples {options.samples}; valid: 1 or more")
        recipe, out = load_recipe(recipes), Path(options.out)
        with console.alive():
            columns = sweep(recipe, numbered(Path(options.prompts)), out, samples=options.samples, console=console)
        count = f"{next(iter(columns.values())).questions} questions x {options.samples} answers, percent [95 %]"
        Terminal(width=200).print(write_report(recipe.model.label, count, columns, out, shown=NAMES, plotted=OUTCOMES))
        console.line(f"written      {out}: {FILE}, table.md, numbers.json, plot.png")
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    return 0


def numbered(folder: Path) -> dict[int, Path]:
    """The prompts of a folder by their numbers (`4.txt`). UserError where there is none."""
    found = {int(path.stem): path for path in folder.glob("*.txt") if path.stem.isdecimal()}
    if not found:
        raise UserError(f"--prompts {folder}: holds no numbered prompts; expected files such as 1.txt and 2.txt")
    return dict(sorted(found.items()))


def sweep(recipe: Recipe, paths: dict[int, Path], out: Path, *, samples: int, console: Console) -> dict[str, Column]:
    """A column of factuality metrics for each prompt; the answers are kept in the folder `out`."""
    refuse_server(recipe.rollout)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / FILE).is_file()):
        raise UserError(f"--out {out} exists already and holds no sweep; give a new folder")
    examples = closed_book_questions(recipe.data, recipe.sft, recipe.held_out, console)
    base = starting_weights(recipe.model, recipe.run.folder, console)
    s, rollout = recipe.sampling, recipe.fixed_rollout
    codecs = {
        number: make_prompt_codec(recipe.model.replace(prompt=str(path)), base, console, max_tokens=s.max_tokens)
        for number, path in paths.items()
    }
    prompts = {
        prompt_name(f"{number} {example.id}", prompt): prompt
        for number, codec in codecs.items()
        for example in examples
        for prompt in [codec.render(example)]
    }
    codec = next(iter(codecs.values()))  # all decode alike
    model = FixedModel(folder=base, codec=codec, model=recipe.model, policy=recipe.policy, rollout=rollout)
    sampling = Sampling(group_size=samples, max_tokens=s.max_tokens, temperature=s.temperature, top_p=s.top_p)
    answers = model.answer(prompts, sampling, out, seed=recipe.run.seed, console=console)
    form = {"reasoning": recipe.model.reasoning, "refusals": recipe.model.refusals}
    columns = {}
    for place, number in enumerate(paths):
        some = answers[place * len(examples) : (place + 1) * len(examples)]
        columns[f"prompt {number}"] = column(examples, some, **form)
    return columns


def closed_book_questions(data: DataConfig, sft: SFTConfig, wanted: HeldOutConfig, console: Console) -> list[Example]:
    """The held-out questions. UserError where there are none, or where one is no closed-book question."""
    examples = load_questions(data, sft, wanted, console, warm_up=False).held_out
    if not examples:
        raise UserError(
            f"no question is held out (data.held_out = {data.held_out}, held_out.questions = {wanted.questions}); "
            "expected both above 0"
        )
    if other := next((example for example in examples if example.style != "closed"), None):
        raise UserError(
            f"example {other.id}: style {other.style!r}, and the prompts are for closed-book questions; expected "
            "--data.source=FILE of such (curriculum/datasets/closed_book.py lists the formats)"
        )
    return examples


def column(
    examples: Sequence[Example], answers: Sequence[Sequence[Answer]], *, reasoning: bool, refusals: Sequence[str]
) -> Column:
    """The factuality metrics of one prompt with 95 % intervals over questions."""
    form = {"reasoning": reasoning, "refusals": refusals}
    asked = [
        (e, [outcome(e, answer.text, **form, finished=not answer.truncated) for answer in group])
        for e, group in zip(examples, answers, strict=True)
    ]
    sums_IK = factuality_sums(asked)
    values = {name: float(value[0]) for name, value in factuality_scores(sums_IK.sum(0)).items()}
    around = intervals(sums_IK, factuality_scores)
    if all(example.answerable for example in examples):
        del values["unanswerable_not_attempted"]  # a share of no questions
    return Column(values=values, intervals=around, questions=len(examples))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
