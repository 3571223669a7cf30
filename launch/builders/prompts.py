"""The [model] section of a recipe -> prompts as token ids, and completions as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.transforms import fit_passages
from grpo.data.example import Example
from grpo.data.prompts import escape, load_system_prompt, make_prompt_renderer, special_tokens, stop_ids
from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.types import Completion, Group, PromptRenderer
from launch.builders.data import Questions
from launch.builders.models import load_configurations, load_tokenizer, locate
from launch.config.recipe import ModelConfig
from rewards.answer import TAGS
from rewards.reference_answers import reference_completion


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCodec:
    """Examples to token ids and token ids to text, for one tokenizer."""

    tokenizer: Any
    render: PromptRenderer
    reasoning: bool
    stop_ids: tuple[int, ...]  # the first one ends a reference answer
    special: Mapping[str, int]  # special tokens by text
    refusals: Sequence[str]  # the first one is taught

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these token ids, without special tokens other than the tags of the answer format."""
        hidden = {number for text, number in self.special.items() if text not in TAGS}
        return self.tokenizer.decode([number for number in ids if number not in hidden])

    def encode_reference(self, example: Example) -> Group:
        """Return the example with its reference answer as the one completion, for supervised steps."""
        plain = escape(example, self.special)
        text = reference_completion(plain, reasoning=self.reasoning, refusal=self.refusals[0])
        ids = (*self.tokenizer.encode(text, add_special_tokens=False), self.stop_ids[0])
        completion = Completion(text=text, token_ids=ids, logprobs=(0.0,) * len(ids), finish="stop", version=-1)
        return Group(example=example, prompt_ids=self.render(example), completions=(completion,))


def make_prompt_codec(model: ModelConfig, folder: str, console: Console, *, max_tokens: int) -> PromptCodec:
    """Return the codec for the tokenizer in `folder`; `max_tokens` of the context are kept for the completion."""
    console.status("rendering the prompts")
    tokenizer = load_tokenizer(folder)
    stops = stop_ids(tokenizer, *load_configurations(folder))
    render = make_prompt_renderer(
        tokenizer,
        system=load_system_prompt(model.system_prompt),
        reasoning=model.reasoning,
        context=model.context,
        max_tokens=max_tokens,
        refusal=model.refusals[0],
    )
    return PromptCodec(
        tokenizer=tokenizer,
        render=render,
        reasoning=model.reasoning,
        stop_ids=stops,
        special=special_tokens(tokenizer),
        refusals=model.refusals,
    )


def fit_questions(
    questions: Questions, model: ModelConfig, name: str, console: Console, comm: Communicator, *, max_tokens: int
) -> Questions:
    """Return the questions with prompts that fit: too long a record loses passages, or is left out and counted.

    `name` is the folder or name of the model whose tokenizer counts. UserError where none is left to train on.
    """
    folder = comm.local_main_first(lambda: locate(name, console=console))
    render = make_prompt_codec(model, folder, console, max_tokens=max_tokens).render
    found: dict[str, set[str]] = {"left out": set(), "shortened": set()}
    reasons: list[str] = []

    def fits(example: Example) -> bool:
        try:
            render(example)
        except UserError as error:
            reasons.append(str(error))
            return False
        return True

    def fitted(examples: Sequence[Example]) -> list[Example]:
        made = [(example, fit_passages(example, fits)) for example in examples]
        found["left out"].update(example.id for example, cut in made if cut is None)
        found["shortened"].update(example.id for example, cut in made if cut is not None and cut is not example)
        return [cut for _, cut in made if cut is not None]

    kept = Questions(
        train=fitted(questions.train), warm_up=fitted(questions.warm_up), held_out=fitted(questions.held_out)
    )
    if not kept.train and questions.train:
        raise UserError(reasons[0])
    if reasons:
        counts = ", ".join(f"{len(ids)} {what}" for what, ids in found.items() if ids)
        console.line(f"             too long: {counts} ({reasons[0]})")
    return kept
