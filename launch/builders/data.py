"""The [data] section of a recipe -> examples, and the questions of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from curriculum.datasets import DataSpec
from curriculum.datasets.closed_book import drop_repeated
from curriculum.mixing import mix
from curriculum.refusal_pairs import add_unanswerable_twins
from curriculum.sources import is_joined, load_source
from curriculum.transforms import apply_transforms
from grpo.data.example import Example, train_heldout_split
from grpo.data.files import read_records
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.rewards import make_judge
from launch.config.recipe import TRANSFORMS, DataConfig, HeldOutConfig, SFTConfig
from rewards.judges.load import LazyJudge, check_judge_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The questions of a run. Held-out questions are in neither of the other lists."""

    train: list[Example]
    warm_up: list[Example]
    held_out: list[Example]


def load_questions(
    data: DataConfig, sft: SFTConfig, held_out: HeldOutConfig, console: Console, *, warm_up: bool
) -> Questions:
    """Load the examples, split them by question, and mix answerable and unanswerable ones as the sections ask.

    `warm_up` says whether the run may start with supervised steps: without it there are no questions for them.
    """
    check_gold(data)
    train, rest = train_heldout_split(load_sources(data, sft, console), held_out=data.held_out)
    questions = Questions(
        train=mix(
            train,
            count=data.max_train,
            unanswerable=data.unanswerable,
            seed=data.seed,
            key="data.unanswerable",
            mixture=data.mixture,
        ),
        warm_up=_warm_up_questions(sft, train, console) if warm_up and sft.steps else [],
        held_out=_held_out_questions(held_out, rest, console) if held_out.questions else [],
    )
    shown = [f"{len(questions.train)} to train on ({_unanswerable(questions.train)} unanswerable)"]
    shown += [f"{len(questions.warm_up)} to warm up"] if questions.warm_up else []
    shown += [f"{len(questions.held_out)} held out ({_unanswerable(questions.held_out)} unanswerable)"]
    console.line(f"data         {_named(data)}: {', '.join(shown)}")
    return questions


def load_sources(
    data: DataConfig, sft: SFTConfig, console: Console, *, choose: Literal["found", "first"] = "found"
) -> list[Example]:
    """Return every example of data.source, before any split, with the transforms of the section.

    The invented world is made as large as training and supervised steps need it. Of a record with more than
    data.passages, training sees those that hold an answer, and evaluation the first ones: `choose`.
    """
    sources = [data.source] if isinstance(data.source, str) else data.source
    transforms = {name: getattr(data, name) for name in TRANSFORMS}
    if any(transforms.values()):
        _refuse_transformed(sources, transforms)
    spec = _data_spec(data, sft, choose)
    check_judge_name(data.label_with)
    judge = LazyJudge(partial(make_judge, data.label_with, console=console))
    examples: list[Example] = []
    for source in sources:
        console.status(f"{source}: loading")
        loaded, dropped = load_source(source, spec, judge)
        examples += loaded
        if dropped:
            console.line(f"             {dropped}")
    if len(sources) > 1:
        examples, repeated = drop_repeated(examples)
        if repeated:
            console.line(f"             {repeated} questions are in several sources; the first one counts")
    return apply_transforms(examples, **transforms, seed=data.seed) if any(transforms.values()) else examples


def check_gold(data: DataConfig) -> None:
    """UserError where data.gold is given, and no source has chats or prompts, which lack accepted answers."""
    sources = [data.source] if isinstance(data.source, str) else data.source
    spec = DataSpec(format=data.format, fields=data.fields)
    if data.gold and not any(is_joined(source, spec) for source in sources):
        raise UserError(
            f"data.gold = {', '.join(data.gold)}, but {', '.join(sources)} has no chats or prompts whose answers it "
            "could be; expected no data.gold, or --data.format=messages or prompt_response"
        )


def check_count(count: int, data: DataConfig, console: Console) -> None:
    """Say that fewer questions are trained on than asked for. UserError where there is not even a tenth of them.

    Called when questions whose prompts are too long are left out already.
    """
    if count >= data.max_train:
        return
    text = f"{_named(data)}: {count} of the {data.max_train} questions that data.max_train asks for"
    if 10 * count < data.max_train:
        raise UserError(
            f"{text} can be used: after the split (data.held_out = {data.held_out}) and the mix (data.unanswerable = "
            f"{data.unanswerable}), and with prompts that fit; valid: --data.max_train={max(count, 1)}, or more data"
        )
    console.line(f"             {text} are there, and the stage uses these")


def _named(data: DataConfig) -> str:
    return data.source if isinstance(data.source, str) else f"{len(data.source)} sources"


def _warm_up_questions(sft: SFTConfig, train: Sequence[Example], console: Console) -> list[Example]:
    """Return the questions of the supervised steps in their order. Refusals need questions with passages."""
    share = sft.unanswerable if any(example.passages for example in train) else 0.0
    if share < sft.unanswerable:
        console.line("             the questions have no passages, so the warm-up shows no refusal")
    count = sft.steps * sft.examples_per_step
    answerable = mix(train, count=count - int(count * share), unanswerable=0.0, seed=sft.seed, key="sft.steps")
    return add_unanswerable_twins(answerable, share=share, pool=train, seed=sft.seed)


def _held_out_questions(held_out: HeldOutConfig, rest: Sequence[Example], console: Console) -> list[Example]:
    if not rest:
        console.line("             no question is held out (data.held_out is too small): there will be no table")
        return []
    share = held_out.unanswerable
    return mix(rest, count=held_out.questions, unanswerable=share, seed=0, key="held_out.unanswerable")


def _unanswerable(examples: Sequence[Example]) -> int:
    return sum(not example.answerable for example in examples)


def _data_spec(data: DataConfig, sft: SFTConfig, choose: Literal["found", "first"]) -> DataSpec:
    """Return how examples are made where no file has them ready."""
    # Four times what is asked for, half of it unanswerable, so that any mix can be drawn on either side of the split.
    # The size of the evaluation does not count: the same questions then make the same warm-up everywhere.
    needed = max(data.max_train, sft.steps * sft.examples_per_step, 250)
    return DataSpec(
        seed=data.seed,
        passages=data.passages or None,
        choose=choose,
        max_words=data.max_words or None,
        style=data.style or None,
        format=data.format,
        fields=data.fields,
        refusals=data.refusals,
        judge=data.label_with,
        gold=data.gold,
        world_size=4 * needed,
        unrelated=data.unrelated,
        styles=data.styles,
    )


def _refuse_transformed(sources: Sequence[str], transforms: Mapping[str, int]) -> None:
    """Raise UserError for a file of filtered examples that were transformed already: those examples were found hard."""
    asked = ", ".join(f"data.{name}" for name, wanted in transforms.items() if wanted)
    for source in sources:
        if source != "world" and (done := next(read_records(source))[1].get("transformed")):
            raise UserError(
                f"{source}: the recipe that it was filtered with has transformed its examples ({done}), and {asked} "
                "would do it again; valid for this file: --data.distractors=0 --data.without_support=false "
                "--data.shuffle=false"
            )
