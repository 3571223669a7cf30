"""Does the thinking lead to the answer? R_process (Ground-GRPO eq 7, section 4.7), for reasoning models.

The verifier's probability that the thinking entails the final decision: the answer part without its citations, or the
refusal sentence where the model refused. Right or wrong plays no part, and thinking that repeats the answer word for
word is paid in full: the reward asks for consistency and nothing else. The paper does not give its weight; ours is 1.

Of long thinking the last `KEPT_WORDS` words are shown to the verifier: a model reads a few hundred tokens and would cut
the end off, which is where a chain of thought arrives at its decision.

The lexical verifier knows no paraphrase: it finds a refusal entailed only by thinking that has its words.
"""

from collections.abc import Sequence

from grpo.data.text import REFUSAL, normalize, strip_citations
from rewards.answer import Answer
from rewards.judges.base import Verifier

KEPT_WORDS = 300
"""Words of thinking, counted from its end, that fit beside an answer into the 512 tokens of a common NLI model."""


def process_rewards(answers: Sequence[Answer], verifier: Verifier) -> list[float]:
    """R_process of every answer of a group, in [0, 1]; 0 where malformed or where nothing was thought.

    The verifier is asked once for the group, each distinct question once.
    """
    pairs = [_pair(answer) for answer in answers]
    asked = list(dict.fromkeys(pair for pair in pairs if pair))
    verdicts = dict(zip(asked, verifier.entails(asked), strict=True)) if asked else {}
    return [verdicts[pair] if pair else 0.0 for pair in pairs]


def _pair(answer: Answer) -> tuple[str, str] | None:
    """(thinking, decision), or None where there is nothing to judge."""
    decision = REFUSAL if answer.refused else strip_citations(" ".join(answer.answer_text.split()))
    if not answer.well_formed or not normalize(answer.think_text) or not normalize(decision):
        return None
    return " ".join(answer.think_text.split()[-KEPT_WORDS:]), decision
