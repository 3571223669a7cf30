"""How close is the wording to a gold answer? Token F1 and fuzzy containment, for recipes that name them.

Both are in [0, 1]: the best over all spellings of all gold answers that may be rewarded (rewards.correctness.gold), of
the answer part without its citations; 0 for a malformed answer, a refusal, and a question without gold.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from rapidfuzz import fuzz

from grpo.data.example import Example
from grpo.data.text import normalize, strip_citations
from rewards.answer import Answer
from rewards.correctness import gold


def token_f1(text: str, alias: str) -> float:
    """SQuAD's F1 of the normalized tokens (Rajpurkar et al. 2016), in [0, 1].

    >>> token_f1("It was 109 goals", "109 goals"), token_f1("805", "109 goals")
    (0.6666666666666666, 0.0)
    """
    said, wanted = Counter(normalize(text).split()), Counter(normalize(alias).split())
    common = (said & wanted).total()
    return 2 * common / (said.total() + wanted.total()) if common else 0.0


def fuzzy(text: str, alias: str) -> float:
    """How well the normalized alias is contained in the normalized text, in [0, 1]: rapidfuzz's partial ratio.

    A partial ratio slides the shorter text over the longer one, so a text shorter than the alias would score 1 as a
    piece of it; such a text is compared with all of the alias.

    >>> fuzzy("It was Ali Daei.", "Ali Daei"), fuzzy("li", "Ali Daei")
    (1.0, 0.4)
    """
    said, wanted = normalize(text), normalize(alias)
    if not said or not wanted:
        return 0.0
    return (fuzz.ratio if len(said) < len(wanted) else fuzz.partial_ratio)(said, wanted) / 100


def token_f1_rewards(example: Example, answers: Sequence[Answer]) -> list[float]:
    """The best `token_f1` of each answer of a group."""
    return _best(token_f1, example, answers)


def fuzzy_rewards(example: Example, answers: Sequence[Answer]) -> list[float]:
    """The best `fuzzy` of each answer of a group."""
    return _best(fuzzy, example, answers)


def _best(measure: Callable[[str, str], float], example: Example, answers: Sequence[Answer]) -> list[float]:
    aliases = [alias for spellings in gold(example).values() for alias in spellings.values()]

    def best(answer: Answer) -> float:
        if not answer.well_formed or answer.refused:
            return 0.0
        text = strip_citations(" ".join(answer.answer_text.split()))
        return max((measure(text, alias) for alias in aliases), default=0.0)

    return [best(answer) for answer in answers]
