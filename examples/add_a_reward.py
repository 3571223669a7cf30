"""Custom rewards: `python examples/add_a_reward.py`.

A recipe names them by "module:function", each with its weight. The module must be importable in a run: a file of this
checkout, as here, or of an installed package.

    [reward]
    weights = { "examples.add_a_reward:brief" = 0.5, "examples.add_a_reward:names_a_year" = 0.25 }
"""

import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

from curriculum.datasets.world import make_world
from grpo.data.example import Example
from grpo.data.text import REFUSAL, strip_citations
from grpo.types import Completion, Group
from rewards.config import RewardConfig
from rewards.custom import per_answer
from rewards.reference_answers import reference_answer
from rewards.scorer import RewardScorer


@per_answer
def brief(example: Example, completion: Completion) -> float | None:
    """1 for an answer of at most 20 words, less for a longer one; a refusal is not scored."""
    if completion.text == REFUSAL:
        return None
    return min(1.0, 20 / max(1, len(completion.text.split())))


def names_a_year(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
    """A function as TRL takes it: 1 for an answer to "When ...?" that has a year, else 0."""
    return [
        float(not prompt.startswith("When") or bool(re.search(r"\b\d{4}\b", completion)))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def main() -> None:
    """Score four answers to one question of the invented world, and print the parts of each."""
    config = RewardConfig(
        refusal=True,
        weights={"examples.add_a_reward:brief": 0.5, "examples.add_a_reward:names_a_year": 0.25},
    )
    score = RewardScorer(config, reasoning=False)
    world = make_world(40, seed=0, unanswerable=0.0, passages=3, styles={"prose": 1.0})
    example = next(e for e in world if e.answerable)
    gold = reference_answer(example)
    texts = [gold, strip_citations(gold), f"Let me read all of the passages before I answer. {gold} " * 3, REFUSAL]
    completions = tuple(Completion(text=t, token_ids=(), logprobs=(), finish="stop", version=0) for t in texts)
    print(example.question)
    (scores,) = score([Group(example=example, prompt_ids=(), completions=completions)])
    for completion, scored in zip(completions, scores, strict=True):
        parts = ", ".join(f"{name.rpartition(':')[2]} {value:.2f}" for name, value in scored.parts.items())
        print(f"{scored.total:5.2f}  {completion.text[:70]!r}\n       {parts}")
    print(score.pop_metrics())


if __name__ == "__main__":
    main()
