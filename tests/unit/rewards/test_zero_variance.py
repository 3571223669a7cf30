"""Causes of zero variance: each by an example, in both formats."""

import pytest

from grpo.data.example import Example, Passage
from grpo.data.text import REFUSAL
from rewards.zero_variance import CAUSES, cause, count_causes
from tests.helpers.scoring import group

DAEI = Example(
    id="q1",
    question="How many goals did Daei score?",
    passages=(Passage(title="Ali Daei", text="Ali Daei scored 109 goals."),),
    answers=(("109", "109 goals"),),
    found=((True,),),
    style="prose",
    source="t",
)
UNANSWERABLE = Example(
    id="q2", question=DAEI.question, passages=DAEI.passages, answers=(("88",),), found=((False,),), style="prose",
    source="t",
)  # fmt: skip
CLAIM = Example(
    id="q3", question="How was it?", passages=DAEI.passages, answers=(("Daei scored many goals",),), found=((True,),),
    style="claims", source="t",
)  # fmt: skip
RIGHT, WRONG = "He scored 109 [1].", "He scored 12 [1]."


@pytest.mark.parametrize(
    ("example", "texts", "expected"),
    [
        (DAEI, (RIGHT, RIGHT), "right"),
        (DAEI, (WRONG, WRONG), "wrong"),
        (DAEI, (REFUSAL, REFUSAL), "refused"),
        (DAEI, ("", " "), "malformed"),
        (DAEI, (RIGHT, WRONG), "mixed"),
        (DAEI, (WRONG, REFUSAL), "wrong"),
        (UNANSWERABLE, (REFUSAL, REFUSAL), "right"),
        (UNANSWERABLE, (RIGHT, WRONG), "wrong"),
        (UNANSWERABLE, (RIGHT, REFUSAL), "mixed"),
        (CLAIM, ("Daei scored many goals, 109 of them [1].",) * 2, "right"),
        (CLAIM, ("Daei scored [1].",) * 2, "wrong"),
    ],
)
def test_causes(example, texts, expected):
    assert cause(group(example, texts), reasoning=False) == expected


def test_a_refusal_of_the_recipes_own_is_a_cause_too():
    own, closed = ["Steht nirgends."], {"question": "?", "style": "closed", "source": "t", "passages": (), "found": ()}
    known, nobody = Example(id="k", answers=(("Daei",),), **closed), Example(id="n", answers=(), **closed)
    found = [cause(group(e, own * 2), reasoning=False, refusals=own) for e in (known, nobody)]
    assert found == ["refused", "right"]


def test_cut_off_comes_before_malformed():
    assert cause(group(DAEI, [RIGHT, WRONG], cut=True), reasoning=False) == "truncated"


def test_the_reasoning_format_is_read_as_such():
    tagged = f"<think>12?</think><answer>{RIGHT}</answer>"
    assert cause(group(DAEI, [tagged] * 2), reasoning=True) == "right"
    assert cause(group(DAEI, [RIGHT] * 2), reasoning=True) == "malformed"
    assert cause(group(DAEI, [tagged] * 2), reasoning=False) == "malformed"


def test_every_cause_is_counted_also_those_without_groups():
    groups = [group(DAEI, [RIGHT] * 2), group(UNANSWERABLE, [REFUSAL]), group(DAEI, [REFUSAL])]
    expected = {f"zero_variance_{name}": 0.0 for name in CAUSES}
    expected |= {"zero_variance_right": 2.0, "zero_variance_refused": 1.0}
    assert count_causes(groups, reasoning=False) == expected
