"""R_process (Ground-GRPO eq 7, section 4.7): whether the thinking entails the answer, for reasoning models.

The reward is the judge's probability that the thinking entails the decision: the answer part without citations, or the
refusal sentence if the model refused. Correctness plays no part, and thinking that repeats the answer word for word is
paid in full. The paper does not give the weight; the default is 1.

The lexical judge counts words: thinking with less than 40 % of a refusal's content words earns nothing.
"""

from collections.abc import Sequence

from grpo.data.text import strip_citations, words
from rewards.answer import ParsedAnswer
from rewards.judges.base import Pair, Verdicts

MAX_THINK_WORDS = 300  # the last ones, where a chain of thought reaches its decision; an NLI model reads 512 tokens


def consistency_pair(answer: ParsedAnswer, refusal: str) -> Pair | None:
    """(thinking, decision), or None if the answer is malformed or has no thinking."""
    decision = refusal if answer.refused else strip_citations(" ".join(answer.answer_text.split()))
    if not answer.well_formed or not words(answer.think_text) or not words(decision):
        return None
    return " ".join(answer.think_text.split()[-MAX_THINK_WORDS:]), decision


def consistency_rewards(answers: Sequence[ParsedAnswer], verdicts: Verdicts, refusal: str) -> list[float]:
    """R_process of every answer, in [0, 1]; 0 without a pair to judge."""
    pairs = [consistency_pair(answer, refusal) for answer in answers]
    return [verdicts[pair] if pair else 0.0 for pair in pairs]
