"""R_process: the thinking must lead to what is then said."""

from collections.abc import Sequence

import pytest

from grpo.data.example import Example, Passage
from grpo.data.text import REFUSAL
from grpo.errors import UserError
from grpo.types import Completion
from rewards.judges.base import Lexical, Verifier
from rewards.scorer import RewardSettings, compose

EXAMPLE = Example(
    id="q",
    question="Who?",
    passages=(Passage(title="Ali Daei", text="Ali Daei scored 109 goals."),),
    answers=(("Ali Daei",),),
    found=((True,),),
    style="prose",
    source="test",
)
SETTINGS = RewardSettings(consistency=True, refusal=True)


def process(*texts: str, verifier: Verifier | None = None, cut: bool = False) -> list[float]:
    finish = "length" if cut else "stop"
    group = [Completion(text=t, token_ids=(2,), logprobs=(0.0,), finish=finish, version=0) for t in texts]
    return [s.parts["consistency"] for s in compose(SETTINGS, reasoning=True, verifier=verifier)(EXAMPLE, group)]


def reasoned(think: str, answer: str) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


class Half(Lexical):
    """Says 0.5 of everything; keeps what it was asked."""

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
    assert process(text) == [value]


def test_a_cut_completion_has_none() -> None:
    assert process(reasoned("Ali Daei.", "Ali Daei."), cut=True) == [0.0]


def test_it_is_the_verifiers_probability_asked_once_a_group_for_the_decision() -> None:
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
    assert process(*texts, verifier=judge) == [0.5, 0.5, 0.5, 0.0, 0.0, 0.0]
    assert judge.asked == [[("so", "It won."), ("no", REFUSAL)]]


def test_of_long_thinking_the_end_is_judged() -> None:
    judge = Half()
    long = " ".join(f"word{n}" for n in range(1000))
    process(reasoned(f"{long} so it won", "It won."), verifier=judge)
    ((premise, _),) = judge.asked[0]
    assert premise.split() == [*(f"word{n}" for n in range(703, 1000)), "so", "it", "won"]


def test_its_weight_is_one_and_can_be_set() -> None:
    text = reasoned("Ali Daei scored 109 goals.", "Ali Daei scored 109 [1].")
    group = [Completion(text=text, token_ids=(2,), logprobs=(0.0,), finish="stop", version=0)]
    for weight, total in ((None, 4.5), (0.25, 3.75), (0.0, 3.5)):
        weights = {} if weight is None else {"consistency": weight}
        settings = RewardSettings(consistency=True, refusal=True, weights=weights)
        assert compose(settings, reasoning=True)(EXAMPLE, group)[0].total == total


def test_a_model_that_does_not_think_cannot_be_paid_for_it() -> None:
    with pytest.raises(
        UserError, match=r"consistency = true .* model.reasoning = false .*; valid: model.reasoning = true"
    ):
        compose(SETTINGS, reasoning=False)
