"""Questions about three passages, groups of completions made of texts, and their scores."""

from collections.abc import Sequence
from typing import Any

from grpo.data.example import Example, Passage, Style
from grpo.types import Completion, Group, Score
from rewards.config import RewardConfig
from rewards.scorer import RewardScorer

TEXTS = ("Ali Daei scored 109 goals.", "Josef Bican scored 805 goals.", "A pitch has grass.")
TITLES = ("Ali Daei", "Josef Bican", "Pitch")
PASSAGES = tuple(Passage(title=title, text=text) for title, text in zip(TITLES, TEXTS, strict=True))
DAEI, BICAN = "Ali Daei scored 109 goals", "Josef Bican scored 805 goals"


def question(*, answerable: bool = True, style: Style = "prose", answers: tuple[tuple[str, ...], ...] = ()) -> Example:
    gold = answers or (("Ali Daei", "Daei"), ("Josef Bican",))
    found = tuple(tuple(answerable and a == p for a in range(len(gold))) for p in range(len(PASSAGES)))
    return Example(id="q", question="Who?", passages=PASSAGES, answers=gold, found=found, style=style, source="test")


def reasoned(answer: str) -> str:
    return f"<think>Perhaps [3].</think>\n<answer>{answer}</answer>"


def completion(text: str, *, cut: bool = False) -> Completion:
    finish = "length" if cut else "stop"
    return Completion(text=text, token_ids=(2,), logprobs=(0.0,), finish=finish, version=0)


def group(example: Example, texts: Sequence[str], *, cut: bool = False) -> Group:
    return Group(example=example, prompt_ids=(1,), completions=tuple(completion(text, cut=cut) for text in texts))


def scores(scorer: RewardScorer, example: Example, texts: Sequence[str], *, cut: bool = False) -> list[Score]:
    (found,) = scorer([group(example, texts, cut=cut)])
    return found


def score(
    text: str, example: Example | None = None, *, cut: bool = False, reasoning: bool = True, **changes: Any
) -> Score:
    scorer = RewardScorer(RewardConfig.model_validate({"refusal": True} | changes), reasoning=reasoning)
    return scores(scorer, example or question(), [text], cut=cut)[0]


def total(answer: str, example: Example | None = None, *, uncapped_sum: bool = False) -> float:
    return score(reasoned(answer), example, uncapped_sum=uncapped_sum).total
