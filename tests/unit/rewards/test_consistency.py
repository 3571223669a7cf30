"""R_process: the thinking entails the answer."""

from collections.abc import Sequence

import pytest

from grpo.data.example import Example, Passage
from grpo.data.text import REFUSAL
from grpo.errors import UserError
from rewards.config import RewardConfig
from rewards.judges.base import Judge
from rewards.judges.lexical import LexicalJudge
from rewards.scorer import RewardScorer
from tests.helpers.scoring import scores

EXAMPLE = Example(
    id="q",
    question="Who?",
    passages=(Passage(title="Ali Daei", text="Ali Daei scored 109 goals."),),
    answers=(("Ali Daei",),),
    found=((True,),),
    style="prose",
    source="test",
)
CONFIG = RewardConfig(consistency=True, refusal=True)


def consistency(*texts: str, judge: Judge | None = None, cut: bool = False) -> list[float]:
    scorer = RewardScorer(CONFIG, reasoning=True, judge=judge)
    return [score.parts["consistency"] for score in scores(scorer, EXAMPLE, texts, cut=cut)]


def reasoned(think: str, answer: str) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


class Half(LexicalJudge):
    """A judge that gives 0.5 and keeps the pairs."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.asked.append(list(pairs))
        return [0.5] * len(pairs)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (reasoned("Passage 1: Ali Daei scored 109 goals.", "Ali Daei scored 109 [1]."), 1.0),
        (reasoned("Passage 1: Ali Daei scored 109 goals.", "Josef Bican [1]."), 0.0),
        (reasoned(" ", "Ali Daei scored 109 [1]."), 0.0),
        (
            reasoned("But I couldn't find it. Apologize: no answer to your question in the search results.", REFUSAL),
            1.0,
        ),
        (reasoned("Ali Daei.", REFUSAL), 0.0),
        (reasoned("Ali Daei.", f"{REFUSAL} Ali Daei."), 0.0),  # the decision was to refuse
        ("<think>Ali Daei.</think>Ali Daei.", 0.0),
        (reasoned("Ali Daei.", "[1]"), 0.0),
    ],
)
def test_thinking_that_entails_the_decision(text: str, value: float) -> None:
    assert consistency(text) == [value]


def test_a_cut_completion_has_none() -> None:
    assert consistency(reasoned("Ali Daei.", "Ali Daei."), cut=True) == [0.0]


def test_it_is_the_judges_probability_asked_once_a_group_for_the_decision() -> None:
    judge = Half()
    refusing = reasoned("no", f"{REFUSAL} [1]")
    texts = [
        reasoned("so", "It won\n[1]."),
        reasoned("so", "It won [2]."),
        refusing,
        reasoned(" ", "It won."),
        reasoned("so", "[1]"),
        "bad",
    ]
    assert consistency(*texts, judge=judge) == [0.5, 0.5, 0.5, 0.0, 0.0, 0.0]
    assert judge.asked == [[("so", "It won."), ("no", REFUSAL)]]


def test_of_long_thinking_the_end_is_judged() -> None:
    judge = Half()
    long = " ".join(f"word{n}" for n in range(1000))
    consistency(reasoned(f"{long} so it won", "It won."), judge=judge)
    ((premise, _),) = judge.asked[0]
    assert premise.split() == [*(f"word{n}" for n in range(703, 1000)), "so", "it", "won"]


def test_its_weight_is_one_and_can_be_set() -> None:
    text = reasoned("Ali Daei scored 109 goals.", "Ali Daei scored 109 [1].")
    for weight, total in ((None, 4.5), (0.25, 3.75), (0.0, 3.5)):
        weights = {} if weight is None else {"consistency": weight}
        settings = RewardConfig(consistency=True, refusal=True, weights=weights)
        assert scores(RewardScorer(settings, reasoning=True), EXAMPLE, [text])[0].total == total


def test_a_model_that_does_not_think_cannot_be_paid_for_it() -> None:
    with pytest.raises(
        UserError, match=r"consistency = true .* model.reasoning = false .*; valid: model.reasoning = true"
    ):
        RewardScorer(CONFIG, reasoning=False)
