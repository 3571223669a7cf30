"""The refusal score and R_refusal (Ground-GRPO eq 6).

The paper leaves the fuzzy function open. This file takes that of the Trust-Score: rapidfuzz's partial ratio between the
normalized texts, above 0.85. The text to find is FLAG, the first part of the refusal sentence. Compared with the whole
sentence, "I'm sorry, but I couldn't find an answer to your question in the search results." would score 0.94 instead
of 0.82, but worked case 13 of the paper says that it is no refusal. Sentences of a recipe's own (`model.refusals`) are
compared as a whole.
"""

from collections.abc import Sequence

from rapidfuzz import fuzz

from grpo.data.text import CITATION, REFUSAL, REFUSALS, STOP_WORDS, clean, normalize, words

FLAG = "I apologize, but I couldn't find an answer"  # the first part of `grpo.data.text.REFUSAL`, as in the Trust-Score
REFUSAL_THRESHOLD = 0.85
HEDGE_FACTOR = 0.5  # on a refusal's reward if the answer says something else as well; not in the paper

_VARIANTS = (
    "about", "am", "any", "are", "be", "been", "because", "cannot", "cant", "contain", "context", "could", "do",
    "document", "documents", "does", "doesnt", "dont", "enough", "found", "given", "im", "information", "me", "no",
    "not", "passage", "passages", "provided", "question", "relevant", "sorry", "source", "sources", "there", "these",
    "this", "unable", "unfortunately", "with",
)  # fmt: skip
_REFUSAL_WORDS = STOP_WORDS.union(words(REFUSAL).split(), _VARIANTS)


def check_refusals(refusals: Sequence[str]) -> None:
    """ValueError unless there is a refusal sentence, and each has words."""
    if not refusals or not all(map(words, refusals)):
        raise ValueError(f"refusals = {list(refusals)}; valid: one sentence or more, such as {list(REFUSALS)}")


def refusal_score(answer: str, refusals: Sequence[str] = REFUSALS) -> float:
    """Similarity of an answer to the nearest of the refusals, 0 to 1: partial_ratio(normalized refusal, answer) / 100.

    A partial ratio slides the shorter text over the longer one, so that a short answer that is a piece of a refusal
    ("I", "an answer") would score 1. Such an answer is therefore compared with all of it.

    >>> refusal_score("I apologize, but I couldn’t find an answer to your question.")
    1.0
    >>> round(refusal_score("an answer"), 2), round(refusal_score("Ali Daei scored 109 goals."), 2)
    (0.28, 0.42)
    >>> refusal_score("在文档中找不到答案。", (REFUSAL, "在文档中找不到答案。"))
    1.0
    """
    plain = clean(answer)
    return max(
        _similarity(normalize(FLAG), normalize(plain))
        if refusal == REFUSAL
        else _similarity(words(refusal), words(plain))
        for refusal in refusals
    )


def _similarity(refusal: str, answer: str) -> float:
    return (fuzz.ratio if len(answer) < len(refusal) else fuzz.partial_ratio)(refusal, answer) / 100


def is_refusal(score: float) -> bool:
    """Whether a refusal score means a refusal: strictly above 0.85, as in the Trust-Score."""
    return score > REFUSAL_THRESHOLD


def is_pure_refusal(answer: str, refusals: Sequence[str] = REFUSALS) -> bool:
    """Whether an answer cites nothing and has only words that refusals consist of. Not in the paper.

    The words are a positive list, because what an answer may add cannot be listed. Unusual refusals count as hedged.

    >>> is_pure_refusal(REFUSAL), is_pure_refusal("I apologize, but I could not find an answer in the documents.")
    (True, True)
    >>> is_pure_refusal(f"{REFUSAL} Ali Daei."), is_pure_refusal(f"{REFUSAL} [2]")
    (False, False)
    """
    known = _REFUSAL_WORDS.union(*(words(refusal).split() for refusal in refusals))
    return CITATION.search(answer) is None and known.issuperset(words(answer).split())


def refusal_reward(score: float, *, answerable: bool, hedged: bool = False) -> float:
    """R_refusal (eq 6) of a refusal score, in [0, 1].

    answerable:    0.5 if score <= 0.85, else 0
    unanswerable:  score if score > 0.85, else 0; times HEDGE_FACTOR if `hedged`

    >>> refusal_reward(0.95, answerable=False), refusal_reward(0.41, answerable=False)
    (0.95, 0.0)
    >>> refusal_reward(0.95, answerable=True), refusal_reward(0.41, answerable=True)
    (0.0, 0.5)
    """
    if answerable:
        return 0.0 if is_refusal(score) else 0.5
    if not is_refusal(score):
        return 0.0
    return score * HEDGE_FACTOR if hedged else score
