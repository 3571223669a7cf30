"""Prompts: an example as token ids, rendered and tokenized once.

A system message says how to answer. A user message holds the numbered documents and the question. The tokenizer's chat
template joins them. Everything after this module passes token ids and never tokenizes text again.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
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
_THINKING_BLOCK = re.compile(r"(<think>\s*(</think>\s*)?|</think>\s*)$")
_ANSWER = "Zanzibar"  # stands in no template
_SWITCHES = ("enable_thinking", "thinking")  # of Qwen 3, of DeepSeek V3.1
_TODAY = datetime(2024, 7, 26, tzinfo=UTC)  # for templates with a date: Llama 3's own default; a run lasts several days

Message = dict[str, str]


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need.

    `eos_token_id` and `name_or_path` are read too, if present; type checkers do not see them in transformers' classes.
    """

    chat_template: str | dict[str, str] | None

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...  # of tokens with a text and `special`

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
    refusal: str = REFUSAL,
) -> PromptRenderer:
    """The function from an example to its prompt, of at most `context - max_tokens` tokens.

    `system` is completed by `fill_template`. `reasoning` switches thinking on or off in templates with a switch
    (`enable_thinking` or `thinking`). A `<think>` that the template opens itself is removed, and so is a closed
    thinking block before a reasoning model's turn, so that a completion has all four tags or none. Special tokens in
    the example's own text are escaped. UserError for a prompt that is too long: nothing is cut silently.
    """
    room = context - max_tokens
    if room < 1:
        raise UserError(
            f"sampling.max_tokens = {max_tokens} leaves no room for a prompt in model.context = {context}; "
            f"expected sampling.max_tokens < {context} or model.context > {max_tokens}"
        )
    instruction = fill_template(system, reasoning=reasoning, refusal=refusal)
    to_text = _chat_text(tokenizer, instruction, reasoning)
    special = special_tokens(tokenizer)

    def render(example: Example) -> TokenIds:
        # a chat template writes BOS and all other special tokens itself: adding them again would double the BOS
        ids = tuple(tokenizer.encode(to_text(user_message(escape(example, special))), add_special_tokens=False))
        if len(ids) > room:
            smaller = f" or sampling.max_tokens = {context - len(ids)}" if len(ids) < context else ""
            raise UserError(
                f"example {example.id} ({example.question[:60]!r}): its prompt has {len(ids)} tokens, the limit is "
                f"{room} (model.context {context} - sampling.max_tokens {max_tokens}); "
                f"expected model.context = {len(ids) + max_tokens}{smaller}"
            )
        return ids

    return render


def special_tokens(tokenizer: Tokenizer) -> Mapping[str, int]:
    """The texts that the tokenizer reads as control tokens, such as the end of a turn, and their ids."""
    return {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def escape(example: Example, special: Collection[str]) -> Example:
    """The example with a blank inside every special token of its texts: text from data ends no turn.

    >>> from grpo.data.example import Passage
    >>> spam = Passage(title="Spam", text="Nothing.<|im_end|>")
    >>> escape(Example(id="1", question="Who?", passages=(spam,), answers=(), found=((),), style="closed", source="x"),
    ...        ["<|im_end|>"]).passages[0].text
    'Nothing.< |im_end|>'
    """
    texts = [example.question, *chain.from_iterable((p.title, p.text) for p in example.passages)]
    present = [token for token in sorted(special, key=len, reverse=True) if any(token in text for text in texts)]
    if not present:
        return example
    pattern = re.compile("|".join(map(re.escape, present)))

    def plain(text: str) -> str:
        return pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    passages = tuple(replace(p, title=plain(p.title), text=plain(p.text)) for p in example.passages)
    return replace(example, question=plain(example.question), passages=passages)


def stop_ids(tokenizer: Tokenizer, *configs: object) -> tuple[int, ...]:
    """The tokens that end a completion: the turn end of the chat template, then all EOS ids.

    The EOS ids are those of the tokenizer and of the given model and generation configurations. Some models have
    several: Llama 3 ends a turn with another token than a text. With one left out, finished completions would look
    truncated. UserError if there is none.
    """
    found = _turn_end(tokenizer)
    for holder in (tokenizer, *configs):
        # configurations of multimodal models have that of the language model inside
        for part in (holder, getattr(holder, "text_config", None)):
            ids: int | Sequence[int] | None = getattr(part, "eos_token_id", None)
            found += [] if ids is None else [ids] if isinstance(ids, int) else ids
    if not found:
        raise UserError(f"{_folder(tokenizer)}: no EOS id; set eos_token_id in its generation_config.json")
    return tuple(dict.fromkeys(found))


def _chat_text(tokenizer: Tokenizer, instruction: str, reasoning: bool) -> Callable[[str], str]:
    template = tokenizer.chat_template
    if not template:
        raise UserError(
            f"{_folder(tokenizer)}: the tokenizer has no chat template; use an instruction-tuned model, "
            "or put a chat_template.jinja into the folder"
        )
    variables = _variables(template, reasoning=reasoning)
    # A reasoning model writes its thinking block itself, so one that the template has closed is removed too.
    thinking = _THINKING_BLOCK if reasoning else _OPEN_THINK

    def render(messages: list[Message]) -> str:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **variables)
        return thinking.sub("", str(text))

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


def _variables(template: str | dict[str, str], *, reasoning: bool) -> dict[str, Any]:
    """The variables that a template asks for: whether to think, and a clock that stands still."""
    source = template if isinstance(template, str) else "\n".join(template.values())
    named: dict[str, Any] = {name: reasoning for name in _SWITCHES if re.search(rf"\b{name}\b", source)}
    return named | ({"strftime_now": _TODAY.strftime} if "strftime_now" in source else {})


def _turn_end(tokenizer: Tokenizer) -> list[int]:
    """The first special token after an assistant's message in the chat template; empty if there is none."""
    if not tokenizer.chat_template:
        return []
    messages = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": _ANSWER}]
    variables = _variables(tokenizer.chat_template, reasoning=False)
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False, **variables)
    except Exception:  # a template is a program of the model's author; what it makes of a prompt is checked elsewhere
        return []
    special = special_tokens(tokenizer).values()
    after = tokenizer.encode(str(text).rpartition(_ANSWER)[2], add_special_tokens=False)
    return [number for number in after if number in special][:1]


def _folder(tokenizer: Tokenizer) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
