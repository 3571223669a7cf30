"""The numbers of a training step's answers are those of the evaluation."""

import pytest

from eval.online_metrics import OnlineTrustScore
from grpo.data.example import Example, Passage
from grpo.types import Completion
from rewards.judges.lexical import LexicalJudge

REFUSAL = "I apologize, but I couldn't find an answer to your question in the search results."


def example(style: str = "prose", *, answerable: bool = True) -> Example:
    passage = Passage(title="Daei", text="Daei scored 109 goals.")
    closed = style == "closed"
    return Example(
        id=f"{style}-{answerable}",
        question="How many goals?",
        passages=() if closed else (passage,),
        answers=(("109",),),
        found=() if closed else ((answerable,),),
        style=style,
        source="test",
    )


def said(text: str) -> Completion:
    return Completion(text=text, token_ids=(1,), logprobs=(0.0,), finish="stop", version=0)


def test_scores_of_rollouts() -> None:
    live = OnlineTrustScore(LexicalJudge(), reasoning=False)
    answers = [
        (example(), said("Daei scored 109 goals [1].")),
        (example(), said("Daei scored 109 goals [2].")),
        (example(answerable=False), said(REFUSAL)),
        (example(answerable=False), said("Daei scored 109 goals.")),
    ]
    numbers = live(answers)
    assert numbers["answered_ratio"] == 75
    assert numbers["answerable"] == 50
    assert numbers["citation_recall"] == pytest.approx(100 / 3)
    assert numbers["f1_ac"] == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1) * 100)
    assert numbers["f1_gr"] == pytest.approx((2 / 3 + 0.8) / 2 * 100)
    assert "align" not in numbers
    assert (numbers["over_refusal"], numbers["over_answer"]) == (0, 50)
    assert "over_answer" not in live(answers[:2])  # nothing was unanswerable
    assert "over_refusal" not in live(answers[2:])


def test_lists_claims_and_prose_go_together_and_closed_book_questions_are_left_out() -> None:
    live = OnlineTrustScore(LexicalJudge(), reasoning=False)
    assert live([(example("closed"), said("109"))]) == {}
    answers = [(example("list"), said("109 [1]")), (example("closed"), said("x")), (example(), said("109 goals [1]."))]
    numbers = live(answers)
    assert (numbers["answered_ratio"], numbers["f1_ac"]) == (100, 100)


def test_alignment_of_a_reasoning_model() -> None:
    live = OnlineTrustScore(LexicalJudge(), reasoning=True)
    text = "<think>{}</think><answer>Daei scored 109 goals [1].</answer>"
    answers = [(example(), said(text.format(thought))) for thought in ("Daei scored 109 goals.", "Hm.")]
    assert live(answers)["align"] == 50
