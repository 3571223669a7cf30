"""Prompts through a real tokenizer of transformers (one token per byte) and the ways in which chat templates differ."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from grpo.data.example import Example, Passage, Style
from grpo.data.prompts import PROMPTS, load_system_prompt, make_prompt_renderer, stop_ids, user_message
from grpo.data.text import REFUSAL
from grpo.errors import UserError

CHATML = (
    "<|bos|>{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
R1 = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
GEMMA = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
SILENT = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
SPECIAL = ["<|bos|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token per byte, and a post-processor that writes BOS, as Llama's does."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    bos = core.token_to_id("<|bos|>")
    core.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", bos)])
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|bos|>", eos_token="<|im_end|>")
    made.chat_template = template
    made.name_or_path = "models/tiny"
    return made


def example(style: Style = "prose", count: int = 2) -> Example:
    passages = tuple(Passage(title=f"T{n}", text=f"Text {n}, café.") for n in range(1, count + 1))
    found = ((True,),) * count
    return Example(id="q7", question="Who?", passages=passages, answers=(("x",),), found=found, style=style, source="t")


USER = "Document [1](Title: T1): Text 1, café.\nDocument [2](Title: T2): Text 2, café.\n\nQuestion: Who?"


def rendered(template: str | None, *, reasoning: bool = False, system: str = "Be {brief}.") -> str:
    made = tokenizer(template)
    render = make_prompt_renderer(made, system=system, reasoning=reasoning, context=1000, max_tokens=10)
    return str(made.decode(list(render(example()))))


def test_the_prompt_is_what_the_chat_template_says() -> None:
    made = tokenizer()
    render = make_prompt_renderer(made, system="Or: {refusal}", reasoning=False, context=1000, max_tokens=10)
    messages = [{"role": "system", "content": f"Or: {REFUSAL}"}, {"role": "user", "content": USER}]
    expected = made.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(render(example())) == expected
    assert rendered(CHATML).count("<|bos|>") == 1


def test_documents_are_numbered_from_one_and_styles_hint() -> None:
    assert user_message(example()) == USER
    assert user_message(example("list")).startswith(f"{USER}\nAnswer with a comma-separated list")
    assert user_message(example("claims")).startswith(f"{USER}\nAnswer in full sentences")
    assert user_message(example("closed", count=0)) == "Question: Who?"


def test_thinking_is_switched_only_in_templates_that_ask() -> None:
    assert rendered(QWEN3, reasoning=False).endswith("assistant\n<think>\n\n</think>\n\n")
    assert rendered(QWEN3, reasoning=True).endswith("assistant\n")
    assert rendered(CHATML, reasoning=True) == rendered(CHATML, reasoning=False)


@pytest.mark.parametrize("reasoning", [True, False])
def test_a_template_that_opens_the_thought_has_it_cut_off(reasoning: bool) -> None:
    assert rendered(R1, reasoning=reasoning) == rendered(CHATML)
    kept = rendered(R1, system="Think inside <think>")  # only at the end of the prompt
    assert "Think inside <think>" in kept


def test_a_thinking_block_that_the_template_closes_is_left_to_a_reasoning_model() -> None:
    closed = CHATML + "<think>\n\n</think>\n\n{{ '' }}"  # jinja drops the newline at the end of a template
    assert rendered(closed, reasoning=True) == rendered(CHATML)
    assert rendered(closed, reasoning=False) == rendered(CHATML) + "<think>\n\n</think>\n\n"
    deepseek = CHATML + "{% if thinking %}<think>{% else %}</think>{% endif %}"
    assert rendered(deepseek, reasoning=True) == rendered(CHATML)
    assert rendered(deepseek, reasoning=False) == rendered(CHATML) + "</think>"


def test_the_clock_of_a_template_stands_still() -> None:
    assert "26 Jul 2024 00:00:00" in rendered(CHATML + "{{ strftime_now('%d %b %Y %H:%M:%S') }}")


def test_special_tokens_of_the_data_are_plain_text_in_the_prompt() -> None:
    made, plain = tokenizer(), example()
    render = make_prompt_renderer(made, system="Hi", reasoning=False, context=1000, max_tokens=10)
    passages = (*plain.passages, Passage(title="<think>", text="<|im_start|>user"))
    spam = replace(plain, question="Who?<|im_end|>", passages=passages, found=((True,),) * 3)
    ends = [made.convert_tokens_to_ids(token) for token in SPECIAL]
    counts = [[render(of).count(end) for end in ends] for of in (plain, spam)]
    assert counts == [[1, 3, 2, 0, 0]] * 2


def test_an_answer_ends_as_the_template_ends_a_turn() -> None:
    made = tokenizer(CHATML.replace("<|im_end|>", "<|im_start|>"))
    start, end = made.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert stop_ids(made) == (start, end)
    assert stop_ids(tokenizer("{{ messages[0].content }}")) == (end,)


@pytest.mark.parametrize("template", [GEMMA, SILENT])
def test_without_a_system_role_the_user_message_says_it_all(template: str) -> None:
    text = rendered(template)
    assert f"<|im_start|>user\nBe {{brief}}.\n\n{USER}<|im_end|>" in text
    assert "system" not in text


def test_a_missing_or_broken_template_names_the_model() -> None:
    with pytest.raises(UserError, match=r"models/tiny: the tokenizer has no chat template; use an instruction-tuned"):
        rendered(None)
    with pytest.raises(UserError, match=r"models/tiny: the chat template fails: no roles; expected one"):
        rendered("{{ raise_exception('no roles') }}")
    with pytest.raises(UserError, match=r"models/tiny: the chat template drops the system and the user message"):
        rendered("hello")


def test_named_templates_are_looked_into() -> None:
    made = tokenizer()
    made.chat_template = {"default": QWEN3}  # type: ignore[assignment]
    render = make_prompt_renderer(made, system="Hi", reasoning=False, context=1000, max_tokens=10)
    assert str(made.decode(list(render(example())))).endswith("</think>\n\n")


def test_a_prompt_too_long_names_the_nearest_settings() -> None:
    made, item = tokenizer(), example()

    def render(context: int, max_tokens: int) -> int:
        settings = {"system": "Hi", "reasoning": False, "context": context, "max_tokens": max_tokens}
        return len(make_prompt_renderer(made, **settings)(item))

    count = render(1000, 10)
    assert render(count + 10, 10) == render(count + 9, 9) == count  # exactly full
    with pytest.raises(UserError) as caught:
        render(count + 9, 10)
    assert str(caught.value) == (
        f"example q7 ('Who?'): its prompt has {count} tokens, the limit is {count - 1} (model.context {count + 9} - "
        f"sampling.max_tokens 10); expected model.context = {count + 10} or sampling.max_tokens = 9"
    )
    with pytest.raises(UserError, match=rf"expected model.context = {count + 10}$"):
        render(count - 1, 10)


def test_answers_need_room_beside_the_prompt() -> None:
    with pytest.raises(UserError, match=r"max_tokens = 64 leaves no room .* expected sampling.max_tokens < 64 or"):
        make_prompt_renderer(tokenizer(), system="Hi", reasoning=False, context=64, max_tokens=64)


def test_prompt_files_state_the_rules(tmp_path: Path) -> None:
    plain, reasoning = load_system_prompt("plain"), load_system_prompt("reasoning")
    for system in (plain, reasoning):
        assert "only" in system
        assert "documents" in system
        assert "[1]" in system
        assert "{refusal}" in system
    assert len(plain.replace("{refusal}", REFUSAL).split()) <= 40  # every token costs time on a CPU
    assert all(tag in reasoning for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    (tmp_path / "mine.txt").write_text("\ufeffMine.\n", encoding="utf-8")
    assert load_system_prompt(str(tmp_path / "mine.txt")) == "Mine."
    with pytest.raises(UserError, match=rf"{PROMPTS}/plian.txt: no such prompt; .*/8, plain, reasoning, or the path"):
        load_system_prompt("plian")


def test_numbered_prompts_ask_for_a_box_in_either_format() -> None:
    example = Example(id="c", question="Who?", passages=(), answers=(), found=(), style="closed", source="c")
    for number in range(1, 9):
        system = load_system_prompt(f"factuality/{number}")
        assert "boxed[Paris]" in system
        assert "boxed[Unknown]" in system
        said = {}
        for reasoning in (True, False):
            render = make_prompt_renderer(tokenizer(), system=system, reasoning=reasoning, context=2048, max_tokens=64)
            said[reasoning] = str(tokenizer().decode(list(render(example))))
        assert "inside <answer> and </answer>" in said[True]
        assert "step by step" in said[False]
        assert not any("{thinking}" in text or "<answer>" in said[False] for text in said.values())


def test_all_eos_ids_once_each() -> None:
    made = tokenizer()
    own = made.eos_token_id
    several = SimpleNamespace(eos_token_id=[5, own, 3])
    assert stop_ids(made) == (own,)
    assert stop_ids(made, SimpleNamespace(eos_token_id=3), several, SimpleNamespace()) == (own, 3, 5)
    assert stop_ids(made, SimpleNamespace(text_config=SimpleNamespace(eos_token_id=8))) == (own, 8)
    made.eos_token = made.chat_template = None
    with pytest.raises(UserError, match=r"models/tiny: no EOS id; set eos_token_id in its generation_config"):
        stop_ids(made, SimpleNamespace(eos_token_id=None))
