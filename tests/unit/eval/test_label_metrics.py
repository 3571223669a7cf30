"""The held-out table: graded by hand."""

from dataclasses import replace

import pytest

from eval.label_metrics import grade, summarize
from grpo.data.example import Example, Passage
from grpo.data.text import REFUSAL, REFUSALS
from grpo.types import Completion


def example(style="prose", answerable=True, answers=(("109", "one hundred nine"),)):
    passages = (
        Passage(title="Daei", text="Ali Daei scored 109 goals."),
        Passage(title="Ode", text="Jo Ode sang 7 songs."),
    )
    holders = {"109": 0, "7": 1, "Ali Daei scored 109 goals.": 0}
    found = tuple(tuple(answerable and holders[a[0]] == p for a in answers) for p in range(2))
    return Example(id="x", question="?", passages=passages, answers=answers, found=found, style=style, source="t")


def graded(text, finish="stop", **changes):
    completion = Completion(text=text, token_ids=(1,), logprobs=(0.0,), finish=finish, version=0)
    return grade(example(**changes), completion, reasoning=False)


@pytest.mark.parametrize(
    ("text", "right", "grounded"),
    [
        ("He scored 109 goals [1].", 1, 1),
        ("He scored 109 goals [2].", 1, 0),
        ("He scored 109 goals [1][2].", 1, 0),  # the second does not hold it
        ("He scored 109 goals.", 1, 0),
        ("He scored 109 goals [3].", 1, 0),
        ("It was 109. He sang [1].", 1, 0),  # the citation stands in another statement
        ("He scored 108 goals [1].", 0, 0),
        (REFUSAL, 0, 0),
        ("", 0, 0),
    ],
)
def test_right_and_grounded(text, right, grounded):
    result = graded(text)
    assert (result.right, result.grounded) == (right, grounded)
    assert result.refused == (text == REFUSAL)


def test_several_answers_count_by_share():
    two = (("109",), ("7",))
    assert graded("109 [1], 7 [1].", style="list", answers=two).grounded == 0.5
    assert graded("He scored 109 and she sang 7 [1][2].", answers=two).grounded == 1.0


def test_claims_count_when_entailed():
    claim = (("Ali Daei scored 109 goals.",),)
    assert graded("109 goals were scored by Ali Daei [1].", style="claims", answers=claim).grounded == 1.0
    assert graded("Ali Daei scored goals [1].", style="claims", answers=claim).right == 0.0


def test_a_closed_book_question_has_nothing_to_cite():
    closed = Example(
        id="c", question="Who?", passages=(), answers=(("Ali Daei",),), found=(), style="closed", source="test"
    )
    said = [
        Completion(text=text, token_ids=(1,), logprobs=(0.0,), finish="stop", version=0)
        for text in ("Ali Daei", "Bican", REFUSAL, "Ali Daei? boxed[Unknown]", "Bican? boxed[Ali Daei]")
    ]
    graded = [grade(closed, one, reasoning=False) for one in said]
    assert [(g.right, g.grounded, g.refused) for g in graded] == [(1, 1, 0), (0, 0, 0), (0, 0, 1), (0, 0, 1), (1, 1, 0)]

    own = replace(said[0], text="Steht nirgends.")
    assert [grade(closed, own, reasoning=False, refusals=r).refused for r in (REFUSALS, (own.text,))] == [False, True]


def test_the_table():
    grades = [
        graded("It was 109 [1]."),
        graded(REFUSAL),
        graded(REFUSAL, answerable=False),
        graded("109", "length", answerable=False),
    ]
    assert summarize(grades) == {
        "grounded": 50.0,
        "right": 50.0,
        "refused_answerable": 50.0,
        "refused_unanswerable": 50.0,
        "well_formed": 75.0,
    }
