"""R_citation: eq 2, the precision of citations, and statements of stop words."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.data.example import Passage
from tests.helpers.scoring import DAEI, PASSAGES, question, reasoned, score

GOOD, BAD = ("[1]", "[1][1]"), ("[2]", "[2][3]", "[0]", "[4]", "[1][4]")
MARKS = [("", 0.0), *((marks, 0.5) for marks in GOOD), *((marks, -0.5) for marks in BAD)]


@pytest.mark.parametrize(("marks", "cite"), MARKS)
def test_citation(marks: str, cite: float) -> None:
    for answer in (f"{DAEI} {marks}.", f"{DAEI}. {marks}"):
        assert score(reasoned(answer)).parts["citation"] == cite


def test_passage_zero_is_not_the_last_one() -> None:
    grass = question(answers=(("109",), ("805",), ("grass",)))
    assert [score(reasoned(f"A pitch has grass [{n}]."), grass).parts["citation"] for n in (3, 0)] == [0.5, -0.5]


def test_two_passages_can_support_a_statement_together() -> None:
    both = "Ali Daei and Josef Bican scored goals"
    assert score(reasoned(f"{both} [1][2].")).parts["citation"] == 0.5
    assert score(reasoned(f"{both} [1].")).parts["citation"] == -0.5


@pytest.mark.parametrize(("marks", "cite"), [("[1][2]", 0.25), ("[3][2][1]", 0.5 / 3), ("[1][2][1]", 0.25)])
def test_needless_citations_share_the_reward(marks: str, cite: float) -> None:
    assert score(reasoned(f"{DAEI} {marks}.")).parts["citation"] == pytest.approx(cite)
    for changes in ({"anti_gaming": False}, {"uncapped_sum": True}):
        assert score(reasoned(f"{DAEI} {marks}."), **changes).parts["citation"] == 0.5


def test_two_passages_that_both_support_a_statement_are_both_needed() -> None:
    twice = dataclasses.replace(question(), passages=(PASSAGES[0], PASSAGES[0], PASSAGES[1]))
    assert score(reasoned(f"{DAEI} [1][2]."), twice).parts["citation"] == 0.5
    assert score(reasoned(f"{DAEI} [1][2][3]."), twice).parts["citation"] == pytest.approx(0.5 * 2 / 3)


def test_what_words_cannot_judge_costs_nothing() -> None:
    paraphrase = question(answers=(("Ali Daei",),))
    scored = [score(reasoned(f"It is known that Ali Daei has a record of goals [{n}]."), paraphrase) for n in (1, 2)]
    assert [s.parts["citation"] for s in scored] == [0.0, -0.5]  # 3 of 5 content words; the name is missing


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 6), min_size=1), st.integers(1, 3), st.booleans())
def test_one_more_right_citation_never_lowers_the_reward(cited: set[int], more: int, anti_gaming: bool) -> None:
    """Passages 1 to 3 hold the sentence, 4 to 6 do not, and there is no passage 7."""
    six = dataclasses.replace(question(), passages=(PASSAGES[0],) * 3 + (PASSAGES[1],) * 3, found=((True, False),) * 6)

    def citation(numbers: set[int]) -> float:
        marks = "".join(f"[{n}]" for n in sorted(numbers))
        return score(reasoned(f"{DAEI} {marks}."), six, anti_gaming=anti_gaming).parts["citation"]

    assert -0.5 <= citation(cited) <= citation(cited | {more}) <= 0.5
    assert citation({*cited, 7}) == -0.5


def test_a_statement_of_stop_words_is_supported_only_where_it_stands() -> None:
    passages = (Passage(title="Rock", text="They heard The Who in 1969."), Passage(title="Grass", text="It grows."))
    band = dataclasses.replace(
        question(style="list", answers=(("The Who",),)), passages=passages, found=((True,), (False,))
    )
    assert [score(f"The Who [{n}]", band, reasoning=False).parts["citation"] for n in (1, 2)] == [0.5, -0.5]
    whole = score("A whole other song [1]", band, reasoning=False)
    assert whole.parts["exact_match"] == 0.0
