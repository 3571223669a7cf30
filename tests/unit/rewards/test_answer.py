"""The answer parser: any text, statements and citations, both formats."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.data.example import STYLES, Style
from grpo.data.text import NO_PASSAGE, REFUSAL, words
from rewards.answer import TAGS, ParsedAnswer, Statement, parse

PIECES = (*TAGS, "[1]", "[2]", "[", "]", ". ", ", ", "\n", "Ali Daei", "109", REFUSAL, "Dr. ", "\u0661", "\ud800", "a")
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=[])),  # surrogates included
    st.binary().map(lambda raw: raw.decode("latin-1")),
    st.lists(st.sampled_from(PIECES)).map("".join),
)


def reasoned(answer: str, think: str = "hm") -> str:
    return f"<think>{think}</think>\n<answer>{answer}</answer>"


def check(answer: ParsedAnswer, style: Style, reasoning: bool) -> None:
    assert 0.0 <= answer.refusal_score <= 1.0
    assert answer.refused == (answer.refusal_score > 0.85)
    assert all(words(statement.text) for statement in answer.statements)
    assert all(number >= 0 for statement in answer.statements for number in statement.cites)
    if answer.well_formed:
        assert answer.answer_text
        assert set(answer.tags.values()) == {1 if reasoning else 0}


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(STYLES), st.booleans())
def test_any_text_is_read(text: str, style: Style, reasoning: bool) -> None:
    check(parse(text, style=style, reasoning=reasoning), style, reasoning)


@settings(max_examples=200, deadline=None)
@given(TEXTS.filter(lambda text: not any(tag in text for tag in TAGS)), st.sampled_from(STYLES))
def test_thinking_changes_nothing_but_the_thinking(think: str, style: Style) -> None:
    said = "Ali Daei scored 109 [2]. Bican 805"
    loud, quiet = (parse(reasoned(said, t), style=style, reasoning=True) for t in (f"{think} [1]. {REFUSAL} [3]", ""))
    assert loud.statements == quiet.statements
    assert loud.refusal_score == quiet.refusal_score < 0.85
    assert loud.well_formed
    assert "[3]" in loud.think_text


@pytest.mark.parametrize(
    "text",
    [
        "<think>So <answer>X [1]</answer> maybe",
        "<think>a <answer>X [1].</answer></think>",
        "so X [1].</think>",
        "<answer>X [1].</answer> no </think>",
        "X [1].",
        "<think></think> X [1]. </answer>",
    ],
)
def test_malformed_thinking_never_becomes_an_answer(text: str) -> None:
    answer = parse(text, style="prose", reasoning=True)
    assert (answer.statements, answer.answer_text, answer.well_formed) == ((), "", False)


@pytest.mark.parametrize(
    ("style", "text", "expected"),
    [
        ("prose", "It won. [1] Bican lost. [2]", (("It won.", (1,)), ("Bican lost.", (2,)))),
        ("prose", "It won [1]. [2][2] Bican lost.", (("It won.", (1, 2, 2)), ("Bican lost.", ()))),
        ("prose", "It won.\n[3] [9]\nBican [0] lost", (("It won.", (3, 9)), ("Bican lost", (0,)))),
        ("prose", "It won. [1]. Bican lost.", (("It won.", (1,)), ("Bican lost.", ()))),
        ("claims", "Dr. J. Moss  wrote\tit [12].", (("Dr. J. Moss wrote it.", (12,)),)),
        ("closed", "It won, it lost.", (("It won, it lost.", ()),)),
        ("list", "Ali Daei [1], Josef Bican [2][3]. ", (("Ali Daei", (1,)), ("Josef Bican", (2, 3)))),
        ("list", "Alpha, [4], , the, Beta.", (("Alpha", (4,)), ("Beta", ()))),
        ("prose", "", ()),
    ],
)
def test_statements_and_their_citations(style: Style, text: str, expected: tuple[tuple[str, tuple[int, ...]]]) -> None:
    want = tuple(Statement(*pair) for pair in expected)
    assert parse(text, style=style, reasoning=False).statements == want
    assert parse(reasoned(text), style=style, reasoning=True).statements == want


def test_citations_that_no_passage_has() -> None:
    answer = parse(f"It won [{'9' * 5000}][1234567890][007].", style="prose", reasoning=False)
    assert answer.statements[0].cites == (NO_PASSAGE, NO_PASSAGE, 7)
    stray = parse("[1] It won.", style="prose", reasoning=False)
    assert parse("[1]. It won.", style="prose", reasoning=False).flaws == ("citation without a statement",)
    assert stray.statements == (Statement("It won.", (1,)),)
    assert stray.well_formed


@pytest.mark.parametrize(
    ("text", "flaws"),
    [
        (reasoned("It won."), ()),
        ("  <think></think><answer>It won.</answer>\n", ()),
        ("<think>a</think><answer>It won.", ("missing </answer>",)),
        ("It won.", (*(f"missing {tag}" for tag in TAGS), "empty answer")),
        (reasoned("It <answer>won."), ("repeated <answer>",)),
        (reasoned("It won.") + " Done.", ("tags out of order or text around them",)),
        ("<think>a</think> so <answer>It won.</answer>", ("tags out of order or text around them",)),
        ("<answer>It won.</answer><think>a</think>", ("tags out of order or text around them",)),
        (reasoned(" \n"), ("empty answer",)),
    ],
)
def test_the_reasoning_format(text: str, flaws: tuple[str, ...]) -> None:
    answer = parse(text, style="prose", reasoning=True)
    assert (answer.flaws, answer.well_formed) == (flaws, not flaws)
    cut = parse(text, style="prose", reasoning=True, finished=False)
    assert cut.flaws == (*flaws, "cut at the length limit")
    assert not cut.well_formed


@pytest.mark.parametrize(
    ("text", "flaws"),
    [
        ("It won [1].", ()),
        (" \n", ("empty answer",)),
        ("<answer>It won.</answer>", ("unexpected <answer>", "unexpected </answer>")),
    ],
)
def test_the_plain_format(text: str, flaws: tuple[str, ...]) -> None:
    answer = parse(text, style="prose", reasoning=False)
    assert (answer.flaws, answer.well_formed) == (flaws, not flaws)
    assert not parse(text, style="prose", reasoning=False, finished=False).well_formed


@pytest.mark.parametrize(
    "text", ["x." + " " * 50_000 + "y", "<think>" * 9000, "</think>" * 9000, "x[1]" * 9000, "【1†" * 9000]
)
@pytest.mark.parametrize("style", ["prose", "list"])
def test_a_long_monotone_text_is_read_quickly(text: str, style: Style) -> None:
    start = time.perf_counter()
    parse(text, style=style, reasoning=False)
    parse(text, style=style, reasoning=True)
    assert time.perf_counter() - start < 2.0
