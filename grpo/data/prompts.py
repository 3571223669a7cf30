"""From an example to the token ids of its prompt, rendered and tokenized once.

One system message says how to answer, one user message holds the numbered documents and the question. The tokenizer's
chat template sets them; everything after this module passes token ids and never tokenizes text again.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
THINKING: Mapping[bool, str] = {  # what {thinking} in a system message becomes, by model.reasoning
    True: "First think inside <think> and </think>, then write only the final answer inside <answer> and </answer>.",
    False: "Think step by step, then give the final answer.",
}
_OPEN_THINK = re.compile(r"<think>\s*$")

Message = dict[str, str]


class Tokenizer(Protocol):
    """What is needed of a tokenizer: those of transformers have it, and a test's is written in a few lines.

    `eos_token_id` and `name_or_path` are read where present; type checkers do not see them in transformers' classes.
    """

    chat_template: str | dict[str, str] | None

    # the answer is text, since it is asked for with tokenize=False; the declared type of transformers is wider
    def apply_chat_template(
        self, conversation: list[Message], *, add_generation_prompt: bool, tokenize: bool, **variables: Any
    ) -> object: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> object: ...


def load_system_prompt(name: str) -> str:
    """The system message in `configs/prompts/NAME.txt`, or in the file at the path `name`, without outer blanks."""
    path = Path(name) if name.endswith(".txt") else PROMPTS / f"{name}.txt"
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:  # a name that is too long, a file that is no text
        raise UserError(f"{path}: cannot be read as a prompt: {error}") from None
    if text is None:
        known = ", ".join(sorted(str(entry.relative_to(PROMPTS).with_suffix("")) for entry in PROMPTS.rglob("*.txt")))
        raise UserError(f"{path}: no such prompt; expected {known}, or the path of a .txt file")
    return text.strip()


def fill_template(system: str, *, reasoning: bool) -> str:
    """The system message as the model reads it: `{refusal}` is the refusal sentence, `{thinking}` what `THINKING` says.

    >>> fill_template("Be brief. {thinking}", reasoning=False)
    'Be brief. Think step by step, then give the final answer.'
    """
    return system.replace("{refusal}", REFUSAL).replace("{thinking}", THINKING[reasoning])  # a prompt may show braces


def user_message(example: Example) -> str:
    """The documents, numbered from 1 and one to a line, the question, and what its style asks for.

    >>> user_message(Example(id="1", question="Who?", passages=(), answers=(), found=(), style="closed", source="x"))
    'Question: Who?'
    """
    documents = "\n".join(
        f"Document [{number}](Title: {passage.title}): {passage.text}"
        for number, passage in enumerate(example.passages, 1)
    )
    asked = f"Question: {example.question}"
    return "\n\n".join(part for part in (documents, "\n".join(filter(None, (asked, HINTS[example.style])))) if part)


def make_prompt_renderer(
    tokenizer: Tokenizer, *, system: str, reasoning: bool, context: int, max_tokens: int, chat: bool = True
) -> PromptRenderer:
    """The function from an example to its prompt, of at most `context - max_tokens` tokens.

    `fill_template` completes `system`. `reasoning` switches thinking on or off (`enable_thinking`). A
    template that opens `<think>` itself has that cut off, so that a completion carries all four tags, or none.
    `chat=False` renders plain text, for models without a chat template. A prompt that is too long is an `UserError`
    that names the example and the nearest settings with room for it: nothing is ever cut silently.
    """
    room = context - max_tokens
    if room < 1:
        raise UserError(
            f"sampling.max_tokens = {max_tokens} leaves no room for a prompt in model.context = {context}; "
            f"expected sampling.max_tokens < {context} or model.context > {max_tokens}"
        )
    instruction = fill_template(system, reasoning=reasoning)
    to_text = _chat(tokenizer, instruction, reasoning) if chat else _plain(instruction)

    def tokens(example: Example) -> TokenIds:
        # a chat template writes BOS and all other special tokens itself: adding them again would double the BOS
        return tuple(tokenizer.encode(to_text(user_message(example)), add_special_tokens=not chat))

    def render(example: Example) -> TokenIds:
        ids = tokens(example)
        if len(ids) > room:
            raise _too_long(example, len(ids), context, max_tokens, tokens)
        return ids

    return render


def eos_ids(tokenizer: Tokenizer, *configs: object) -> tuple[int, ...]:
    """Every EOS id of the tokenizer and of the given model and generation configurations, once each, in that order.

    Some models have several (Llama 3 ends a turn with another token than a text), and one that is left out makes
    finished completions look truncated. None anywhere is an `UserError`.
    """
    found: list[int] = []
    for holder in (tokenizer, *configs):
        # configurations of multimodal models keep the one of the language model inside
        for part in (holder, getattr(holder, "text_config", None)):
            ids: int | Sequence[int] | None = getattr(part, "eos_token_id", None)
            found += [] if ids is None else [ids] if isinstance(ids, int) else ids
    if not found:
        raise UserError(f"{_folder(tokenizer)}: no EOS id; set eos_token_id in its generation_config.json")
    return tuple(dict.fromkeys(found))


def _plain(instruction: str) -> Callable[[str], str]:
    return lambda user: f"{instruction}\n\n{user}\nAnswer:"


def _chat(tokenizer: Tokenizer, instruction: str, reasoning: bool) -> Callable[[str], str]:
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

    # some templates refuse a system message (Gemma 2), some leave it out without a word: try, and look at the outcome
    failure: Exception | None = None
    for to_text in (with_system, in_one):
        try:
            if instruction.strip() in to_text("Question"):
                return to_text
        except Exception as error:  # a template is a program of the model's author and may raise whatever it likes
            failure = error
    reason = f"fails: {' '.join(str(failure).split())}" if failure else "leaves out the system and the user message"
    raise UserError(f"{_folder(tokenizer)}: the chat template {reason}; expected one that renders a user message")


def _too_long(
    example: Example, count: int, context: int, max_tokens: int, tokens: Callable[[Example], TokenIds]
) -> UserError:
    room = context - max_tokens
    settings = [f"model.context = {count + max_tokens}"]
    if count < context:
        settings.append(f"sampling.max_tokens = {context - count}")
    for kept in range(len(example.passages) - 1, 0, -1):
        shorter = replace(example, passages=example.passages[:kept], found=example.found[:kept])
        if len(tokens(shorter)) <= room:
            settings.append(f"data.passages = {kept} (where this program picks the passages)")
            break
    return UserError(
        f"example {example.id} ({example.question[:60]!r}): its prompt has {count} tokens, the limit is {room} "
        f"(model.context {context} - sampling.max_tokens {max_tokens}); room for it with {' or '.join(settings)}"
    )


def _folder(tokenizer: Tokenizer) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
