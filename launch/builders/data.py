"""data.source -> examples: the invented world, files, hub data sets, each in its own shape, or several of them."""

from collections.abc import Mapping, Sequence

from curriculum.build import build_from_qa
from curriculum.datasets.closed_book import describe_counts, drop_repeated, load_closed_book
from curriculum.datasets.world import make_world
from curriculum.transforms import apply_transforms
from grpo.data.example import Example, detect_format, load_examples, read_records, source_name
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.config.recipe import TRANSFORMS, Setup
from launch.config.values import in_stage


def all_examples(recipe: Setup, console: Console) -> list[Example]:
    """Every example of data.source, before any split: loaded, or built for the world and question-answer pairs."""
    source, transforms = recipe.data.source, {name: getattr(recipe.data, name) for name in TRANSFORMS}
    if any(transforms.values()):
        refuse_transformed([source] if isinstance(source, str) else source, transforms)
    if isinstance(source, str):
        kept = examples_of(source, recipe, console)
    else:
        kept, again = drop_repeated(example for one in source for example in examples_of(one, recipe, console))
        if again:
            console.line(f"             {again} questions are in several sources; the first one counts")
    return apply_transforms(kept, **transforms, seed=recipe.data.seed) if any(transforms.values()) else kept


def refuse_transformed(sources: Sequence[str], transforms: Mapping[str, int]) -> None:
    """UserError where a file's examples were transformed before they were filtered: they are what was found hard."""
    asked = ", ".join(f"data.{name}" for name, wanted in transforms.items() if wanted)
    for source in sources:
        if source != "world" and (done := next(read_records(source))[1].get("transformed")):
            raise UserError(
                f"{source}: the recipe that it was filtered with has transformed its examples ({done}), and {asked} "
                "would do it again; valid for this file: --data.distractors=0 --data.without_support=false "
                "--data.shuffle=false"
            )


def examples_of(source: str, recipe: Setup, console: Console) -> list[Example]:
    """Every example of one source; what was dropped of it is said."""
    data = recipe.data
    if source == "world":
        # Four times what is asked for, half of it unanswerable, so that any mix can be drawn on either side of the
        # split. The evaluation's size has no say in it: the same questions then make the same warm-up everywhere.
        needed = max(data.max_train, recipe.sft.steps * recipe.sft.examples_per_step, 250)
        return make_world(
            4 * needed,
            seed=data.seed,
            unanswerable=0.5,
            unrelated=in_stage(data.unrelated, recipe.run.stage),
            passages=data.passages,
            styles=data.styles,
        )
    shape = detect_format(source)
    if shape == "question_answer":
        console.status(f"{source}: finding distractors")
        examples, report = build_from_qa(
            source,
            passages=data.passages,
            unanswerable="any",  # every form that there is: the recipe's shares are drawn from them on either side
            seed=data.seed,
            max_words=data.max_words or None,
            source=source_name(source),
        )
        console.line(f"             {report}")
        return examples
    if shape == "closed_book":
        examples, dropped = load_closed_book(source)
        kept, again = drop_repeated(examples)
        console.line(f"             {source}: {describe_counts(kept, {**dropped, 'asked before': again})}")
        return kept
    return load_examples(source)
