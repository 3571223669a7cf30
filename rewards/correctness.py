"""Is it right? R_EM (Ground-GRPO eq 1): 0.5 for each statement that says a gold answer.

The paper sums over statements without a bound, so that one right sentence written n times earns n times the reward.
By default a statement earns only if it says a gold answer that no statement before it said. That is never more than the
paper's sum, and at most 0.5 per gold answer. The first mention counts, not the best: else a model could cite each
passage in turn and keep the hit. Its price: after "Both A and B won." the sentences on A and B alone earn nothing.

`anti_gaming` closes two more holes, unless the paper's sum is asked for: an answer of a letter or two, or of stop
words ("It", "The Who"), is a piece of almost any sentence, so that it must appear as whole words; and copying all
passages says every answer without knowing one, so that statements and words far beyond those of a right answer shrink
what it earns (`brevity`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from grpo.data.example import Example
from grpo.data.text import STOP_WORDS, normalize
from rewards.answer import Statement
from rewards.judges.base import ENTAILED, Verifier

Said = frozenset[int]
"""The gold answers, by index from 0, that a statement says."""

EXACT_MATCH = 0.5

FRAGILE = 3
"""A normalized answer of at most this many characters is found inside other words and numbers: "38" in "1938"."""

FREE_STATEMENTS = 2
"""Statements of introduction or context that cost nothing, beside one for every right statement."""

FREE_WORDS, WORDS_PER_ANSWER = 40, 30
"""Words that cost nothing, in all and for every gold answer said: two or three long sentences for the first one."""

_JOINTS = re.compile(r"[-/\u2010-\u2014]")  # hyphens, dashes, slashes: "38-year-old" says 38


def gold(example: Example) -> dict[int, dict[str, str]]:
    """The answers that may be rewarded: index -> {normalized spelling: spelling}, blank spellings left out.

    Only answers that the passages support: what no passage holds was not answered from the passages. (The paper does
    not say.) A closed question has no passages, so there every answer counts.
    """
    indices = range(len(example.answers)) if example.style == "closed" else example.answerable_indices
    spellings = {index: {normalize(alias): alias for alias in example.answers[index]} for index in indices}
    return {index: {key: alias for key, alias in aliases.items() if key} for index, aliases in spellings.items()}


def is_fragile(key: str) -> bool:
    """Whether a normalized answer is so short, or so empty of content, that containment finds it by accident.

    >>> [is_fragile(key) for key in ("38", "who", "in it", "109 goals", "ali daei")]
    [True, True, True, False, False]
    """
    return len(key) <= FRAGILE or STOP_WORDS.issuperset(key.split())


def mentioned(text: str, answers: Mapping[int, Iterable[str]], *, anti_gaming: bool = True) -> set[int]:
    """Which of these answers, index -> normalized spellings, a text says: by containment, fragile ones as whole words.

    >>> answers = {0: ["38"], 1: ["ali daei", "daei"]}
    >>> mentioned("Daei, in 1938.", answers), mentioned("The 38-year-old Daei.", answers)
    ({1}, {0, 1})
    >>> mentioned("Daei, in 1938.", answers, anti_gaming=False)
    {0, 1}
    """
    body = normalize(text)

    def says(key: str) -> bool:
        if key not in body:
            return False
        return (
            not anti_gaming
            or not is_fragile(key)
            or _whole(key, body)
            or _whole(key, normalize(_JOINTS.sub(" ", text)))
        )

    return {index for index, keys in answers.items() if any(says(key) for key in keys)}


def _whole(key: str, body: str) -> bool:
    return f" {key} " in f" {body} "


def said(
    example: Example, rows: Sequence[Sequence[Statement]], verifier: Verifier, *, anti_gaming: bool = True
) -> list[list[Said]]:
    """Which gold answers each statement says, for the statements of every completion of a group.

    Each distinct text is read once. A claim is a whole sentence and rarely repeated word for word, so for claims a
    statement that entails it says it too; `anti_gaming` asks nothing about a claim of stop words alone, which a lexical
    judge finds in anything.
    """
    answers = gold(example)
    texts = dict.fromkeys(statement.text for row in rows for statement in row)
    known = {text: mentioned(text, answers, anti_gaming=anti_gaming) for text in texts}
    if example.style == "claims":
        for text, index in _entailed(known, answers, verifier, anti_gaming=anti_gaming):
            known[text].add(index)
    return [[frozenset(known[statement.text]) for statement in row] for row in rows]


def _entailed(
    known: dict[str, set[int]], answers: dict[int, dict[str, str]], verifier: Verifier, *, anti_gaming: bool
) -> list[tuple[str, int]]:
    """The (statement, claim index) pairs that the verifier affirms, in one call; what is known already is not asked."""
    asked = [
        (text, index, alias)
        for text, indices in known.items()
        for index, aliases in answers.items()
        if index not in indices
        for key, alias in aliases.items()
        if not (anti_gaming and STOP_WORDS.issuperset(key.split()))
    ]
    if not asked:
        return []
    verdicts = verifier.entails([(text, alias) for text, _, alias in asked])
    return [(text, index) for (text, index, _), p in zip(asked, verdicts, strict=True) if p > ENTAILED]


def credited(row: Sequence[Said], *, uncapped_sum: bool = False) -> tuple[int, ...]:
    """Which statements of a completion earn, by index: those with a new gold answer; with `uncapped_sum`, with any.

    >>> credited([frozenset({0}), frozenset(), frozenset({0}), frozenset({0, 1})])
    (0, 3)
    >>> credited([frozenset({0}), frozenset(), frozenset({0}), frozenset({0, 1})], uncapped_sum=True)
    (0, 2, 3)
    """
    seen: set[int] = set()
    earning = []
    for index, answers in enumerate(row):
        if answers - seen or (uncapped_sum and answers):
            earning.append(index)
        seen |= answers
    return tuple(earning)


def brevity(right: int, answers: int, statements: Sequence[Statement]) -> float:
    """The share, in (0, 1], that `right` statements keep of their pay, when all of these say `answers` gold answers:
    min(1, (2 right + 2) / distinct statements, (30 answers + 40) / words of the distinct statements).

    Two statements are free, and one for each right one; repeats are not counted, since they earn nothing anyway. Words
    are counted as well because a copy may be one endless sentence. Ours.

    >>> lines = [Statement(text, ()) for text in "bcdefghi"]
    >>> brevity(1, 1, lines[:4]), brevity(1, 1, lines), brevity(3, 3, lines), brevity(1, 1, lines[:1] * 9)
    (1.0, 0.5, 1.0, 1.0)
    >>> long = [Statement(" ".join(str(n) for n in range(140)), ())]
    >>> brevity(1, 1, long), brevity(1, 4, long)
    (0.5, 1.0)
    """
    distinct = {normalize(statement.text) for statement in statements}
    words = sum(len(text.split()) for text in distinct)
    of_statements = (2 * right + FREE_STATEMENTS) / max(len(distinct), 1)
    of_words = (WORDS_PER_ANSWER * answers + FREE_WORDS) / max(words, 1)
    return min(1.0, of_statements, of_words)


def exact_match(correct: int) -> float:
    """R_EM (eq 1) of a completion: sum over its statements of 0.5 [s_i has an exact match] = 0.5 * correct."""
    return EXACT_MATCH * correct
