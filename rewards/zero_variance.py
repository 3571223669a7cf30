"""Why did a group score all alike? All right, all wrong, all refused, all cut off, all malformed, or something else.

Read from the answers and their labels, not from the rewards, so that it holds for every recipe.
"""

from collections.abc import Sequence

from grpo.data.example import Example
from grpo.data.text import contains
from grpo.types import Group
from rewards.answer import Answer, parse
from rewards.boxed import final_answer, is_silent
from rewards.factuality import verdicts
from rewards.judges.base import ENTAILED, Lexical

CAUSES = ("truncated", "malformed", "refused", "right", "wrong", "mixed")


def cause(group: Group, *, reasoning: bool) -> str:
    """Which of CAUSES fits a dead group; the first that holds for all of its completions.

    truncated   cut off at max_tokens
    malformed   not in the format that is asked for
    refused     refused, though the passages hold an answer; of closed-book questions: not attempted
    right       an answer that the passages hold, or a refusal where they hold none
    wrong       neither
    mixed       none of these holds for all of them: they are worth the same by chance, or by a reward of your own
    """
    if all(completion.finish == "length" for completion in group.completions):
        return "truncated"
    style = group.example.style
    answers = [parse(c.text, style=style, reasoning=reasoning, finished=c.finish == "stop") for c in group.completions]
    if not any(answer.well_formed for answer in answers):
        return "malformed"
    if group.example.answerable and all(_silent(group.example, answer) for answer in answers):
        return "refused"
    passes = [right(group.example, answer) for answer in answers]
    return "right" if all(passes) else "mixed" if any(passes) else "wrong"


def right(example: Example, answer: Answer) -> bool:
    """Whether an answer does what its question is for: says an answer that the passages hold, or refuses where none is.

    A claim is said where all of its content words are (the lexical judge). A closed-book question has no passages: any
    of its answers will do, in the box, or not attempting it where it has none.
    """
    if not answer.well_formed:
        return False
    if example.style == "closed":
        return verdicts(example, [answer], Lexical())[0] == ("right" if example.answerable else "silent")
    if answer.refused or not example.answerable:
        return answer.refused and not example.answerable
    if example.style == "claims":
        pairs = [(answer.answer_text, claim) for a in example.answerable_indices for claim in example.answers[a]]
        return any(p > ENTAILED for p in Lexical().entails(pairs))
    return any(contains(answer.answer_text, example.answers[a]) for a in example.answerable_indices)


def _silent(example: Example, answer: Answer) -> bool:
    return answer.well_formed and is_silent(final_answer(answer)[1]) if example.style == "closed" else answer.refused


def count_causes(dead: Sequence[Group], *, reasoning: bool) -> dict[str, float]:
    """{"dead_right": 2.0, ...}: how many of the dead groups there are of each cause, those of 0 included."""
    counts: dict[str, int] = dict.fromkeys(CAUSES, 0)
    for group in dead:
        counts[cause(group, reasoning=reasoning)] += 1
    return {f"dead_{name}": float(count) for name, count in counts.items()}
