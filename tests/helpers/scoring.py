"""Groups of completions made of texts, and their scores."""

from collections.abc import Sequence

from grpo.data.example import Example
from grpo.types import Completion, Group, Score
from rewards.scorer import RewardScorer


def completion(text: str, *, cut: bool = False) -> Completion:
    finish = "length" if cut else "stop"
    return Completion(text=text, token_ids=(2,), logprobs=(0.0,), finish=finish, version=0)


def group(example: Example, texts: Sequence[str], *, cut: bool = False) -> Group:
    return Group(example=example, prompt_ids=(1,), completions=tuple(completion(text, cut=cut) for text in texts))


def scores(scorer: RewardScorer, example: Example, texts: Sequence[str], *, cut: bool = False) -> list[Score]:
    (found,) = scorer([group(example, texts, cut=cut)])
    return found
