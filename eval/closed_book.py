"""What came of a closed-book answer: correct, not attempted, or wrong? And of many: the five buckets of the slides.

Correct is what says an accepted answer as whole words (`eval.answer_extraction.says`), in the box where there is
one. It is the
metric's own rule and not the reward's; `python -m eval.human_agreement` compares both with human judges.
"""

from collections.abc import Sequence

from eval.answer_extraction import says
from eval.factuality import Outcome, factuality
from grpo.data.example import Example
from grpo.data.text import strip_citations
from grpo.types import Completion, Group
from rewards.answer import parse
from rewards.boxed import final_answer, is_silent

NAMES = {
    "All Correct": "all_correct",
    "Partial Correct": "partial_correct",
    "Partial NotAttempt": "partial_not_attempted",
    "All NotAttempt": "all_not_attempted",
    "All Attempt and Wrong": "all_wrong",
}
"""The slides' buckets as names of metrics."""


def outcome(example: Example, completion: Completion, *, reasoning: bool) -> Outcome:
    """What a completion comes to. One that is not in the format is wrong, and so is a refusal that goes on to answer.

    A question without answers can only be got wrong or not be attempted.
    """
    finished = completion.finish == "stop"
    answer = parse(completion.text, style="closed", reasoning=reasoning, finished=finished)
    final = final_answer(answer)[1]
    if not answer.well_formed:
        return "wrong"
    if is_silent(final):
        return "not_attempted"
    said = any(says(strip_citations(final), spellings) for spellings in example.answers)
    return "correct" if said and not parse(final, style="closed", reasoning=False).refused else "wrong"


def outcomes(group: Group, *, reasoning: bool) -> list[Outcome]:
    """Of every completion of a group."""
    return [outcome(group.example, completion, reasoning=reasoning) for completion in group.completions]


def live_numbers(groups: Sequence[Group], *, reasoning: bool) -> dict[str, float]:
    """Percentages over a step's closed-book questions: the five buckets, and answers correct, not attempted, wrong.

    Empty where no such question was asked.
    """
    rows = [outcomes(group, reasoning=reasoning) for group in groups if group.example.style == "closed"]
    if not rows:
        return {}
    found = factuality(rows)
    numbers = {NAMES[name]: share for name, share in found.shares.items()}
    return {**numbers, "correct": found.correct, "not_attempted": found.not_attempted, "wrong": found.wrong}
