"""The refusal score, R_refusal at its threshold, and hedged refusals."""

import pytest
from rapidfuzz import fuzz

from grpo.data.example import Style
from grpo.data.text import REFUSAL, REFUSALS, normalize
from rewards.answer import parse
from rewards.config import RewardConfig
from rewards.refusal import FLAG, check_refusals, refusal_reward, refusal_score
from rewards.scorer import RewardScorer
from tests.helpers.scoring import DAEI, group, question, reasoned, score, total


@pytest.mark.parametrize(
    ("text", "field", "refused"),
    [
        (REFUSAL, 100.0, True),
        (f"{REFUSAL} Ali Daei scored 109 goals [1].", 100.0, True),
        ("I apologize, but I could not find an answer to your question.", 94.59, True),
        ("I'm sorry, but I couldn't find an answer to your question in the search results.", 81.69, False),
        ("Unfortunately, I couldn't find an answer to your question in the search results.", 69.44, False),
        ("The documents do not contain the answer.", 61.82, False),
        ("I could not find the answer in the provided documents.", 70.0, False),
        ("Ali Daei scored 109 goals [1].", 40.82, False),
        ("Unknown", 42.86, False),
        ("", 0.0, False),
    ],
)
def test_the_fields_refusals_keep_their_sides(text: str, field: float, refused: bool) -> None:
    assert fuzz.partial_ratio(normalize(FLAG), normalize(text)) == pytest.approx(field, abs=0.01)
    assert parse(text, style="prose", reasoning=False).refused == refused
    assert (refusal_score(text) > 0.85) == refused == (field > 85)


@pytest.mark.parametrize("piece", ["I apologize", "an answer", "I", "Apolo", "find an answer"])
def test_a_piece_of_the_refusal_is_no_refusal(piece: str) -> None:
    assert fuzz.partial_ratio(normalize(FLAG), normalize(piece)) == 100
    assert refusal_score(piece) < 0.56
    assert not parse(piece, style="list", reasoning=False).refused


def test_the_flag_is_the_start_of_the_sentence_that_prompts_ask_for() -> None:
    assert REFUSAL.startswith(FLAG)
    assert refusal_score(FLAG) == refusal_score(FLAG.lower() + "!") == 1.0


def test_equation_six_at_its_threshold() -> None:
    assert [refusal_reward(x, answerable=True) for x in (0.0, 0.85, 0.851, 1.0)] == [0.5, 0.5, 0.0, 0.0]
    assert [refusal_reward(x, answerable=False) for x in (0.0, 0.85, 0.851, 1.0)] == [0.0, 0.0, 0.851, 1.0]


def test_refusing_and_then_answering_is_a_refusal_in_both_stages() -> None:
    hedged = reasoned(f"{REFUSAL} {DAEI} [1].")
    assert score(hedged).total == 2.0
    assert score(hedged, refusal=False).total == 2.0
    assert score(hedged, question(answerable=False)).total == 2.5
    assert score(hedged, question(answerable=False), uncapped_sum=True).total == 2.5
    assert score(hedged, question(answerable=False), anti_gaming=False).total == 3.0


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (REFUSAL, 1.0),
        (f"{REFUSAL} The documents do not contain it.", 1.0),
        ("I apologize, but I couldn't find an answer in the provided passages.", 1.0),
        (f"{REFUSAL} [1]", 0.5),
        (f"{REFUSAL[:-1]}, but it was Daei.", 0.5),
        (f"Daei. {REFUSAL}", 0.5),
        ("I apologize, but I couldn't find an answer, Ali Daei", 0.5),
    ],
)
@pytest.mark.parametrize("style", ["prose", "list"])
def test_a_refusal_that_says_more_is_paid_half(text: str, refusal: float, style: Style) -> None:
    example = question(answerable=False, style=style)
    assert score(text, example, reasoning=False).parts["refusal"] == refusal
    assert score(text, example, reasoning=False, anti_gaming=False).parts["refusal"] == 1.0
    assert score(text, question(style=style), reasoning=False).parts["refusal"] == 0.0


def test_a_typographic_apostrophe_makes_no_hedge() -> None:
    curly = score(REFUSAL.replace("'", "’"), question(answerable=False), reasoning=False)
    assert curly.parts["refusal"] == 1.0


OWN = ("在文档中找不到答案。", "Das steht nicht in den Dokumenten.")


@pytest.mark.parametrize(
    ("text", "default", "own"),
    [
        (OWN[0], 0.0, 1.0),
        ("抱歉，在文档中找不到答案", 0.0, 0.5),  # recognized; the further word makes it hedged
        ("Das steht nicht in den Dokumenten!", 0.0, 1.0),
        ("Dokumenten", 0.0, 0.0),  # a piece of it
        ("在文档中找不到答案。北京是首都 [1]。", 0.0, 0.5),
        (REFUSAL, 1.0, 0.0),  # no longer asked for
    ],
)
def test_refusal_sentences_of_a_recipe(text: str, default: float, own: float) -> None:
    asked = group(question(answerable=False), [text])
    for refusals, expected in ((REFUSALS, default), (OWN, own)):
        scorer = RewardScorer(RewardConfig(refusal=True), reasoning=False, refusals=refusals)
        assert scorer([asked])[0][0].parts["refusal"] == pytest.approx(expected)


@pytest.mark.parametrize("refusals", [(), ("",), (REFUSAL, "...")])
def test_a_refusal_without_words_is_refused(refusals: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="valid: one sentence or more, such as"):
        check_refusals(refusals)


@pytest.mark.parametrize("piece", ["I apologize", "an answer", "I", "Apolo", "find an answer"])
def test_a_piece_of_the_refusal_is_an_answer(piece: str) -> None:
    assert total(piece) == 2.5
    assert total(piece, question(answerable=False)) == 2.0
