"""R_EM: which statements state a gold answer, which of them are credited, and the length penalty."""

import dataclasses

import pytest

from grpo.data.example import Example
from tests.helpers.scoring import BICAN, DAEI, question, reasoned, score, total

RIGHT = f"{DAEI} [1]."


@pytest.mark.parametrize("times", [1, 2, 7])
def test_repeating_a_right_sentence_pays_once(times: int) -> None:
    repeated = " ".join([f"{DAEI} [1]."] * times)
    assert total(repeated) == 3.5
    assert total(repeated, uncapped_sum=True) == 2.5 + times
    both = " ".join([f"{DAEI} and {BICAN} [1][2]."] * times)
    assert total(both) == 3.5
    assert total(both, uncapped_sum=True) == 2.5 + times


def test_the_first_mention_counts_not_the_best() -> None:
    tries = " ".join(f"{DAEI} [{n}]." for n in (3, 2, 1))
    assert total(tries) == 2.5
    assert total(tries, uncapped_sum=True) == 3.5  # 2.5 + 3 * .5 - .5 - .5 + .5


def test_only_answers_that_the_passages_support_are_paid() -> None:
    found = ((False, False), (False, True), (False, False))
    partly = dataclasses.replace(question(), found=found)  # no passage is said to hold Daei
    assert score(reasoned(f"{DAEI} [1]."), partly).parts["exact_match"] == 0.0
    assert score(reasoned(f"{BICAN} [2]."), partly).parts["exact_match"] == 0.5


@pytest.mark.parametrize(("alias", "said", "match"), [("The 109!", "109 goals.", 0.5), ("the", "The.  Goals.", 0.0)])
def test_spellings_are_normalized_and_blank_ones_never_match(alias: str, said: str, match: float) -> None:
    example = question(answers=((alias,),))
    assert score(reasoned(said), example).parts["exact_match"] == match


def test_lists_are_judged_item_by_item() -> None:
    items = score(reasoned("Ali Daei [1], Josef Bican [1], Grass [3]."), question(style="list"))
    assert items.parts["exact_match"] == 1.0
    assert items.parts["citation"] == 0.0
    assert total("Ali Daei [1], Josef Bican [2], Grass [1].", question(style="list")) == 4.5


def test_a_claim_is_said_by_a_sentence_that_entails_it() -> None:
    claim = (("Goals were scored by Ali Daei.", "Daei had 109 goals."),)
    assert score(reasoned(RIGHT), question(style="claims", answers=claim)).parts["exact_match"] == 0.5
    assert score(reasoned(RIGHT), question(style="prose", answers=claim)).parts["exact_match"] == 0.0
    assert score(reasoned(f"{BICAN} [2]."), question(style="claims", answers=claim)).parts["exact_match"] == 0.0


def test_a_claim_is_said_by_the_whole_answer_and_paid_to_the_statements_that_carry_it() -> None:
    claim = question(style="claims", answers=(("Ali Daei scored 109 goals and a pitch has grass.",),))
    assert score(reasoned(f"{DAEI} [1]."), claim).parts["exact_match"] == 0.0  # half of it
    both = score(reasoned(f"Here it is. {DAEI} [1]. A pitch has grass [3]."), claim)
    assert (both.parts["exact_match"], both.parts["citation"]) == (0.5, 0.5)
    half = score(reasoned(f"{DAEI} [1]. A pitch has grass [1]."), claim)  # 0.5 / 2 - 0.5 / 2
    assert (half.parts["exact_match"], half.parts["citation"]) == (0.5, 0.0)
    assert score(reasoned(f"{DAEI} [1]. A pitch has grass."), claim).parts["citation"] == 0.25
    twice = score(reasoned(f"{DAEI} [1]. {DAEI} [2]. A pitch has grass [3]."), claim)
    assert (twice.parts["exact_match"], twice.parts["citation"]) == (0.5, 0.5)  # a repetition carries nothing


def test_a_long_claim_allows_a_long_answer_and_no_copy() -> None:
    claim = " ".join(f"word{n}" for n in range(96))  # 10 + 1.25 * 96 = 130 words allowed
    example = question(style="claims", answers=((claim,),))
    assert score(reasoned(f"{claim}."), example).parts["exact_match"] == 0.5
    copied = f"{claim}. {' '.join(f'more{n}' for n in range(164))}."
    assert score(reasoned(copied), example).parts["exact_match"] == 0.25  # 130 / 260 of 0.5


def test_a_claim_of_stop_words_is_said_by_nothing_else() -> None:
    claim = (("Who was it?",),)
    assert score(reasoned("A pitch."), question(style="claims", answers=claim)).parts["exact_match"] == 0.0
    assert score(reasoned("Who was it then"), question(style="claims", answers=claim)).parts["exact_match"] == 0.5


def test_a_closed_question_pays_for_any_gold_answer() -> None:
    closed = Example(id="c", question="?", passages=(), answers=(("109",),), found=(), style="closed", source="test")
    assert score(reasoned("109."), closed).parts["exact_match"] == 0.5
    assert score(reasoned("109 [1]."), closed).parts["citation"] == -0.5


@pytest.mark.parametrize(
    ("said", "match"), [("In 1938.", 0.0), ("A 38-year-old.", 0.5), ("He is 38.", 0.5), ("38", 0.5), ("380", 0.0)]
)
def test_a_short_answer_must_be_a_whole_word(said: str, match: float) -> None:
    example = question(answers=(("38",),))
    for changes in ({}, {"anti_gaming": False}):
        assert score(reasoned(said), example, **changes).parts["exact_match"] == match


def test_padding_shrinks_what_right_statements_earn_and_never_a_penalty() -> None:
    padding = " ".join(f"Fact {word} is old [3]." for word in ("one", "two", "three", "four", "five", "six", "seven"))
    padded = score(reasoned(f"{DAEI} [1]. {padding}"))
    assert (padded.parts["exact_match"], padded.parts["citation"]) == (0.25, 0.25)  # (2 + 2) / 8 of 0.5
    assert score(reasoned(f"{DAEI} [2]. {padding}")).parts["citation"] == -0.5
    for changes in ({"uncapped_sum": True}, {"anti_gaming": False}):
        assert score(reasoned(f"{DAEI} [1]. {padding}"), **changes).total == 3.5


def test_one_endless_sentence_is_padding_too() -> None:
    words = " ".join(f"word{n}" for n in range(135))  # and the five of DAEI make 140
    endless = score(reasoned(f"{DAEI} {words}."))
    assert endless.parts["exact_match"] == 0.25  # (30 + 40) / 140 of 0.5
    assert (
        score(reasoned(f"{DAEI} and {BICAN} {words[: words.index('word129')]}.")).parts["exact_match"]
        == 0.5 * 100 / 140
    )
    ordinary = " ".join(f"word{n}" for n in range(65))
    assert score(reasoned(f"{DAEI} {ordinary}.")).parts["exact_match"] == 0.5
    for changes in ({"uncapped_sum": True}, {"anti_gaming": False}):
        assert score(reasoned(f"{DAEI} {words}."), **changes).parts["exact_match"] == 0.5
