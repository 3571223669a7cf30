"""The examples of a recipe's data section: the invented world, files, hub data sets, or several of these."""

from collections.abc import Mapping, Sequence

from curriculum.datasets import DataSpec
from curriculum.datasets.closed_book import drop_repeated
from curriculum.sources import load_source
from curriculum.transforms import apply_transforms
from grpo.data.example import Example
from grpo.data.files import read_records
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.config.recipe import TRANSFORMS, Recipe


def all_examples(recipe: Recipe, console: Console) -> list[Example]:
    """Every example of data.source, before any split, with the transforms of the recipe."""
    data = recipe.data
    sources = [data.source] if isinstance(data.source, str) else data.source
    transforms = {name: getattr(data, name) for name in TRANSFORMS}
    if any(transforms.values()):
        refuse_transformed(sources, transforms)
    examples: list[Example] = []
    for source in sources:
        console.status(f"{source}: loading")
        loaded, dropped = load_source(source, data_spec(recipe))
        examples += loaded
        if dropped:
            console.line(f"             {dropped}")
    if len(sources) > 1:
        examples, repeated = drop_repeated(examples)
        if repeated:
            console.line(f"             {repeated} questions are in several sources; the first one counts")
    return apply_transforms(examples, **transforms, seed=data.seed) if any(transforms.values()) else examples


def data_spec(recipe: Recipe) -> DataSpec:
    """How examples are made where no file has them as they are."""
    data = recipe.data
    # Four times what is asked for, half of it unanswerable, so that any mix can be drawn on either side of the split.
    # The size of the evaluation does not count: the same questions then make the same warm-up everywhere.
    needed = max(data.max_train, recipe.sft.steps * recipe.sft.examples_per_step, 250)
    return DataSpec(
        seed=data.seed,
        passages=data.passages,
        max_words=data.max_words or None,
        world_size=4 * needed,
        unrelated=data.unrelated,
        styles=data.styles,
    )


def refuse_transformed(sources: Sequence[str], transforms: Mapping[str, int]) -> None:
    """UserError if the examples of a file were transformed before they were filtered: those were found hard."""
    asked = ", ".join(f"data.{name}" for name, wanted in transforms.items() if wanted)
    for source in sources:
        if source != "world" and (done := next(read_records(source))[1].get("transformed")):
            raise UserError(
                f"{source}: the recipe that it was filtered with has transformed its examples ({done}), and {asked} "
                "would do it again; valid for this file: --data.distractors=0 --data.without_support=false "
                "--data.shuffle=false"
            )
