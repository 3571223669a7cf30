"""Prompts: an example as token ids, rendered and tokenized once.

A system message says how to answer. A user message holds the numbered documents and the question. The tokenizer's chat
template joins them. Everything after this module passes token ids and never tokenizes text again.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from grpo.data.example import Example, Style
from grpo.data.text import REFUSAL
from grpo.errors import UserError
from grpo.types import PromptRenderer, TokenIds

PROMPTS = Path(__file__).resolve().parents[2] / "configs" / "prompts"
HINTS: Mapping[Style, str] = {
    "prose": "",
    "list": "Answer with a comma-separated list and cite one document for each item.",
    "claims": "Answer in full sentences and cite the documents in each.",
    "closed": "",
}
THINKING: Mapping[bool, str] = {  # for {thinking} in a system message, by model.reasoning
    True: "First think inside <think> and </think>, then write only the final answer inside <answer> and </answer>.",
    False: "Think step by step, then give the final answer.",
}
_OPEN_THINK = re.compile(r"<think>\s*$")

Message = dict[str, str]


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need.

    `eos_token_id` and `name_or_path` are read too, if present; type checkers do not see them in transformers' classes.
    """

    chat_template: str | dict[str, str] | None

    # returns text, because of tokenize=False; the declared type of transformers is wider
    def apply_chat_template(
        self, conversation: list[Message], *, add_generation_prompt: bool, tokenize: bool, **variables: Any
    ) -> object: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> object: ...


def load_system_prompt(name: str) -> str:
    """The system message in `configs/prompts/NAME.txt`, or in the .txt file at the path `name`, stripped."""
    path = Path(os.path.expanduser(name)) if name.endswith(".txt") else PROMPTS / f"{name}.txt"
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        known = ", ".join(sorted(str(entry.relative_to(PROMPTS).with_suffix("")) for entry in PROMPTS.rglob("*.txt")))
        raise UserError(f"{path}: no such prompt; expected {known}, or the path of a .txt file") from None
    except (OSError, ValueError) as error:  # a name that is too long, a null byte in it, a file that is not text
        raise UserError(f"{path}: cannot be read as a prompt: {error}") from None


def fill_template(system: str, *, reasoning: bool, refusal: str = REFUSAL) -> str:
    """The system message with the refusal sentence for `{refusal}` and the text of `THINKING` for `{thinking}`.

    >>> fill_template("Be brief. {thinking}", reasoning=False)
    'Be brief. Think step by step, then give the final answer.'
    """
    # not str.format: a prompt may have braces of its own
    return system.replace("{refusal}", refusal).replace("{thinking}", THINKING[reasoning])


def user_message(example: Example) -> str:
    """The documents, numbered from 1, one on a line; the question; and the hint of its style.

    >>> user_message(Example(id="1", question="Who?", passages=(), answers=(), found=(), style="closed", source="x"))
    'Question: Who?'
    """
    documents = "\n".join(
        f"Document [{number}](Title: {passage.title}): {passage.text}"
        for number, passage in enumerate(example.passages, 1)
    )
    question = "\n".join(filter(None, (f"Question: {example.question}", HINTS[example.style])))
    return "\n\n".join(filter(None, (documents, question)))


def make_prompt_renderer(
    tokenizer: Tokenizer,
    *,
    system: str,
    reasoning: bool,
    context: int,
    max_tokens: int,
    chat: bool = True,
    refusal: str = REFUSAL,
) -> PromptRenderer:
    """The function from an example to its prompt, of at most `context - max_tokens` tokens.

    `system` is completed by `fill_template`. `reasoning` switches thinking on or off in templates with a switch
    (`enable_thinking`). A `<think>` that the template opens itself is removed, so that a completion has all four tags
    or none. `chat=False` renders plain text, for models without a chat template. UserError for a prompt that is too
    long: nothing is cut silently.
    """
    room = context - max_tokens
    if room < 1:
        raise UserError(
            f"sampling.max_tokens = {max_tokens} leaves no room for a prompt in model.context = {context}; "
            f"expected sampling.max_tokens < {context} or model.context > {max_tokens}"
        )
    instruction = fill_template(system, reasoning=reasoning, refusal=refusal)
    to_text = _chat_text(tokenizer, instruction, reasoning) if chat else _plain_text(instruction)

    def render(example: Example) -> TokenIds:
        # a chat template writes BOS and all other special tokens itself: adding them again would double the BOS
        ids = tuple(tokenizer.encode(to_text(user_message(example)), add_special_tokens=not chat))
        if len(ids) > room:
            smaller = f" or sampling.max_tokens = {context - len(ids)}" if len(ids) < context else ""
            raise UserError(
                f"example {example.id} ({example.question[:60]!r}): its prompt has {len(ids)} tokens, the limit is "
                f"{room} (model.context {context} - sampling.max_tokens {max_tokens}); "
                f"expected model.context = {len(ids) + max_tokens}{smaller}"
            )
        return ids

    return render


def eos_ids(tokenizer: Tokenizer, *configs: object) -> tuple[int, ...]:
    """All EOS ids of the tokenizer and of the given model and generation configurations, in that order.

    Some models have several: Llama 3 ends a turn with another token than a text. With one left out, finished
    completions would look truncated. UserError if there is none.
    """
    found: list[int] = []
    for holder in (tokenizer, *configs):
        # configurations of multimodal models have that of the language model inside
        for part in (holder, getattr(holder, "text_config", None)):
            ids: int | Sequence[int] | None = getattr(part, "eos_token_id", None)
            found += [] if ids is None else [ids] if isinstance(ids, int) else ids
    if not found:
        raise UserError(f"{_folder(tokenizer)}: no EOS id; set eos_token_id in its generation_config.json")
    return tuple(dict.fromkeys(found))


def _plain_text(instruction: str) -> Callable[[str], str]:
    return lambda user: f"{instruction}\n\n{user}\nAnswer:"


def _chat_text(tokenizer: Tokenizer, instruction: str, reasoning: bool) -> Callable[[str], str]:
    template = tokenizer.chat_template
    if not template:
        raise UserError(
            f"{_folder(tokenizer)}: the tokenizer has no chat template; use an instruction-tuned model, "
            "put a chat_template.jinja into the folder, or render plain text (chat = false)"
        )
    source = template if isinstance(template, str) else "\n".join(template.values())
    variables = {"enable_thinking": reasoning} if "enable_thinking" in source else {}

    def render(messages: list[Message]) -> str:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **variables)
        return _OPEN_THINK.sub("", str(text))

    def with_system(user: str) -> str:
        return render([{"role": "system", "content": instruction}, {"role": "user", "content": user}])

    def in_one(user: str) -> str:
        return render([{"role": "user", "content": f"{instruction}\n\n{user}"}])

    # Some templates refuse a system message (Gemma 2), and some drop it silently: look at what each way renders.
    failure: Exception | None = None
    for to_text in (with_system, in_one):
        try:
            if instruction.strip() in to_text("Question"):
                return to_text
        except Exception as error:  # a template is a program of the model's author and may raise anything
            failure = error
    reason = f"fails: {' '.join(str(failure).split())}" if failure else "drops the system and the user message"
    raise UserError(f"{_folder(tokenizer)}: the chat template {reason}; expected one that renders a user message")


def _folder(tokenizer: Tokenizer) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
