"""Did the answer refuse, and was that right? rscore and R_refusal (Ground-GRPO eq 6; the metric's `_is_refusal`).

The paper leaves the fuzzy function open; we take the metric's own, a partial ratio over 0.85, in `rapidfuzz`, between
the normalized texts. What is looked for is the metric's flag, the part of the refusal sentence that says "I could not
find it": compared with the whole sentence, "I'm sorry, but I couldn't find an answer to your question in the search
results." would score 0.94 instead of 0.82 and count, which the paper's worked case 13 says it must not.
"""

from rapidfuzz import fuzz

from grpo.data.text import REFUSAL, STOP_WORDS, normalize

FLAG = "I apologize, but I couldn't find an answer"
"""The first part of `grpo.data.text.REFUSAL`, as the metric has it."""

THRESHOLD = 0.85

HEDGED = 0.5
"""The share of a refusal's reward that is left when the answer says something else as well. Ours."""

_FLAG = normalize(FLAG)
_VARIANTS = (
    "about", "am", "any", "are", "be", "been", "because", "cannot", "cant", "contain", "context", "could", "do",
    "document", "documents", "does", "doesnt", "dont", "enough", "found", "given", "im", "information", "me", "no",
    "not", "passage", "passages", "provided", "question", "relevant", "sorry", "source", "sources", "there", "these",
    "this", "unable", "unfortunately", "with",
)  # fmt: skip
_REFUSING = frozenset((*normalize(REFUSAL).split(), *_VARIANTS)) | STOP_WORDS


def rscore(answer: str, *, reference: bool = False) -> float:
    """How much an answer looks like the refusal, 0 to 1: partial_ratio(normalize(FLAG), normalize(answer)) / 100.

    A partial ratio slides the shorter text over the longer one, so a short answer that is a piece of the flag scores 1
    ("I", "an answer"). Here an answer shorter than the flag is compared with all of it. `reference=True` keeps the
    field's behavior, false positives included.

    >>> rscore("I apologize, but I couldn't find an answer to your question."), rscore("an answer", reference=True)
    (1.0, 1.0)
    >>> round(rscore("an answer"), 2), round(rscore("Ali Daei scored 109 goals [1]."), 2)
    (0.28, 0.41)
    """
    text = normalize(answer)
    if len(text) < len(_FLAG) and not reference:
        return fuzz.ratio(_FLAG, text) / 100
    return fuzz.partial_ratio(_FLAG, text) / 100


def is_refusal(score: float) -> bool:
    """Whether an rscore means a refusal: rscore > 0.85, strictly, as in the metric (the paper leaves equality open)."""
    return score > THRESHOLD


def is_plain(answer: str) -> bool:
    """Whether an answer has no word but those that refusals are made of, so that it can only refuse. Ours.

    A positive list, since what an answer may add cannot be listed: "I apologize, but I couldn't find an answer [1]. Ali
    Daei." is a refusal to the metric, and also an answer. An unusual refusal is taken for a hedge and paid less.

    >>> is_plain(REFUSAL), is_plain("I apologize, but I could not find an answer in the provided documents.")
    (True, True)
    >>> is_plain(f"{REFUSAL} Ali Daei."), is_plain(f"{REFUSAL} [2]")
    (False, False)
    """
    return _REFUSING.issuperset(normalize(straight(answer)).split())


def straight(text: str) -> str:
    """The text with typographic apostrophes as ASCII ones, which `normalize` drops: "couldn’t" is "couldn't".

    For the rules that are ours; the metric's own comparisons keep the difference.
    """
    return text.replace("\u2019", "'").replace("\u2018", "'")


def refusal_reward(score: float, *, answerable: bool, hedged: bool = False) -> float:
    """R_refusal (eq 6) of an rscore, in [0, 1].

    answerable:    0.5 if rscore <= 0.85, else 0
    unanswerable:  rscore if rscore > 0.85, else 0; half of it when `hedged`, which is ours

    >>> refusal_reward(0.95, answerable=False), refusal_reward(0.41, answerable=False)
    (0.95, 0.0)
    >>> refusal_reward(0.95, answerable=True), refusal_reward(0.41, answerable=True)
    (0.0, 0.5)
    """
    if answerable:
        return 0.0 if is_refusal(score) else 0.5
    if not is_refusal(score):
        return 0.0
    return score * HEDGED if hedged else score
