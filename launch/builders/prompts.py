"""The [model] section of a recipe -> prompts as token ids, and completions as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grpo.data.example import Example
from grpo.data.prompts import load_system_prompt, make_prompt_renderer
from grpo.telemetry.console import Console
from grpo.types import Completion, Group, PromptRenderer
from launch.builders.data import Questions
from launch.builders.models import load_tokenizer
from launch.config.recipe import ModelConfig
from rewards.reference_answers import reference_completion


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCodec:
    """Examples to token ids and token ids to text, for one tokenizer."""

    tokenizer: Any
    render: PromptRenderer
    reasoning: bool
    refusal: str

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def encode_reference(self, example: Example) -> Group:
        """Return the example with its reference answer as the one completion, for supervised steps."""
        text = reference_completion(example, reasoning=self.reasoning, refusal=self.refusal)
        ids = (*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id)
        completion = Completion(text=text, token_ids=ids, logprobs=(0.0,) * len(ids), finish="stop", version=-1)
        return Group(example=example, prompt_ids=self.render(example), completions=(completion,))


def make_prompt_codec(model: ModelConfig, folder: str, console: Console, *, max_tokens: int) -> PromptCodec:
    """Return the codec for the tokenizer in `folder`; `max_tokens` of the context are kept for the completion."""
    console.status("rendering the prompts")
    tokenizer = load_tokenizer(folder)
    render = make_prompt_renderer(
        tokenizer,
        system=load_system_prompt(model.system_prompt),
        reasoning=model.reasoning,
        context=model.context,
        max_tokens=max_tokens,
        refusal=model.refusals[0],
    )
    return PromptCodec(tokenizer=tokenizer, render=render, reasoning=model.reasoning, refusal=model.refusals[0])


def check_lengths(codec: PromptCodec, questions: Questions, console: Console, *, limit: int) -> None:
    """Render every prompt, so that one that is too long is found before training.

    Warns where many reference answers are longer than `limit` tokens: such completions count as malformed.
    """
    for example in (*questions.train, *questions.warm_up, *questions.held_out):
        codec.render(example)
    lengths = sorted(len(codec.encode_reference(example).completions[0].token_ids) for example in questions.train[:500])
    longer = sum(length > limit for length in lengths) / len(lengths)
    if longer > 0.2:
        fits = lengths[int(0.9 * (len(lengths) - 1))]
        console.line(
            f"warning: {longer:.0%} of the gold answers are longer than sampling.max_tokens = {limit}; "
            f"nine of ten fit into {fits}"
        )
