"""R_EM (Ground-GRPO eq 1): 0.5 for each statement with a gold answer. Also token F1 and fuzzy containment.

The paper sums over statements without a bound, so that one right sentence written n times earns n times the reward.
By default, a statement earns only with a gold answer that no statement before it has. The sum is then at most 0.5 per
gold answer, and never more than the paper's. The first mention counts, not the best: otherwise a model could cite each
passage in turn and keep the hit. The price: after "Both A and B won." the sentences on A and B alone earn nothing.

`anti_gaming` adds two rules. An answer of a few characters or of stop words ("It", "The Who") is part of almost any
sentence, and must appear as whole words. Copying all passages gives every answer without knowing one; statements and
words far beyond those of a right answer therefore shrink its reward (`length_penalty`).

Token F1 and fuzzy containment are in [0, 1], for recipes that name them: the best over all spellings of all rewardable
answers, and 0 for a malformed answer, a refusal, and a question without gold answers.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rapidfuzz import fuzz

from grpo.data.example import Example
from grpo.data.text import STOP_WORDS, normalize, strip_citations
from rewards.answer import ParsedAnswer, Statement
from rewards.judges.base import ENTAILMENT_THRESHOLD, Pair, Verdicts

AnswerIndices = frozenset[int]  # indices of the gold answers that a statement states
EXACT_MATCH = 0.5
MAX_SHORT_ANSWER = 3  # characters of a normalized answer that is found inside other words and numbers: "38" in "1938"
FREE_STATEMENTS = 2  # statements of introduction or context without a penalty, beside two for every right statement
FREE_WORDS, WORDS_PER_ANSWER = 40, 30  # words without a penalty, in total and per gold answer stated
_JOINTS = re.compile(r"[-/\u2010-\u2014]")  # hyphens, dashes, slashes: "38-year-old" states 38


def rewardable_answers(example: Example) -> dict[int, dict[str, str]]:
    """Answer index -> {normalized spelling: spelling}, without blank spellings.

    Only answers that the passages support are rewardable, which the paper leaves open. A closed-book question has no
    passages, so that all its answers are.
    """
    indices = range(len(example.answers)) if example.style == "closed" else example.answerable_indices
    spellings = {index: {normalize(alias): alias for alias in example.answers[index]} for index in indices}
    return {index: {key: alias for key, alias in aliases.items() if key} for index, aliases in spellings.items()}


def is_short(key: str) -> bool:
    """Whether a normalized answer is so short, or so empty of content, that containment finds it by accident.

    >>> [is_short(key) for key in ("38", "who", "in it", "109 goals", "ali daei")]
    [True, True, True, False, False]
    """
    return len(key) <= MAX_SHORT_ANSWER or STOP_WORDS.issuperset(key.split())


def answers_mentioned(text: str, answers: Mapping[int, Iterable[str]], *, anti_gaming: bool = True) -> set[int]:
    """Indices of the answers (index -> normalized spellings) that a text contains, short ones as whole words.

    >>> answers = {0: ["38"], 1: ["ali daei", "daei"]}
    >>> answers_mentioned("Daei, in 1938.", answers), answers_mentioned("The 38-year-old Daei.", answers)
    ({1}, {0, 1})
    >>> answers_mentioned("Daei, in 1938.", answers, anti_gaming=False)
    {0, 1}
    """
    body = normalize(text)

    def mentions(key: str) -> bool:
        if key not in body or not anti_gaming or not is_short(key):
            return key in body
        return any(f" {key} " in f" {words} " for words in (body, normalize(_JOINTS.sub(" ", text))))

    return {index for index, keys in answers.items() if any(mentions(key) for key in keys)}


def claim_pairs(
    example: Example, rows: Iterable[Sequence[Statement]], *, anti_gaming: bool = True
) -> Iterator[tuple[str, int, Pair]]:
    """(statement text, answer index, pair to judge) for the statements that may entail a claim; none for other styles.

    A claim is a whole sentence that is rarely repeated word for word, so that a statement that entails a claim states
    it. A claim that the text contains needs no judge. With `anti_gaming` a claim of stop words is not judged, because
    the lexical judge finds it entailed by anything.
    """
    if example.style != "claims":
        return
    answers = rewardable_answers(example)
    for text in dict.fromkeys(statement.text for row in rows for statement in row):
        mentioned = answers_mentioned(text, answers, anti_gaming=anti_gaming)
        for index in answers.keys() - mentioned:
            for key, alias in answers[index].items():
                if not (anti_gaming and STOP_WORDS.issuperset(key.split())):
                    yield text, index, (text, alias)


def answers_stated(
    example: Example, rows: Sequence[Sequence[Statement]], verdicts: Verdicts, *, anti_gaming: bool = True
) -> list[list[AnswerIndices]]:
    """The gold answers that each statement of each completion states. `verdicts` are those of `claim_pairs`."""
    answers = rewardable_answers(example)
    texts = dict.fromkeys(statement.text for row in rows for statement in row)
    stated = {text: answers_mentioned(text, answers, anti_gaming=anti_gaming) for text in texts}
    for text, index, pair in claim_pairs(example, rows, anti_gaming=anti_gaming):
        if verdicts[pair] > ENTAILMENT_THRESHOLD:
            stated[text].add(index)
    return [[frozenset(stated[statement.text]) for statement in row] for row in rows]


def credited_statements(row: Sequence[AnswerIndices], *, uncapped_sum: bool = False) -> tuple[int, ...]:
    """Indices of the statements that earn: those with a new gold answer, or with `uncapped_sum` those with any.

    >>> credited_statements([frozenset({0}), frozenset(), frozenset({0}), frozenset({0, 1})])
    (0, 3)
    >>> credited_statements([frozenset({0}), frozenset(), frozenset({0}), frozenset({0, 1})], uncapped_sum=True)
    (0, 2, 3)
    """
    seen: set[int] = set()
    earning = []
    for index, answers in enumerate(row):
        if answers - seen or (uncapped_sum and answers):
            earning.append(index)
        seen |= answers
    return tuple(earning)


def length_penalty(right: int, answers: int, statements: Sequence[Statement]) -> float:
    """Factor in (0, 1] on the reward of `right` statements among `statements`, which together state `answers` answers:
    min(1, (2 right + 2) / distinct statements, (30 answers + 40) / words of the distinct statements).

    Repeats are not counted, because they earn nothing. Words are counted as well because a copy may be one endless
    sentence. Not in the paper.

    >>> lines = [Statement(text, ()) for text in "bcdefghi"]
    >>> [length_penalty(1, 1, lines[:4]), length_penalty(1, 1, lines), length_penalty(3, 3, lines)]
    [1.0, 0.5, 1.0]
    >>> long = [Statement(" ".join(str(n) for n in range(140)), ())]
    >>> length_penalty(1, 1, long), length_penalty(1, 4, long), length_penalty(1, 1, lines[:1] * 9)
    (0.5, 1.0, 1.0)
    """
    distinct = {normalize(statement.text) for statement in statements}
    words = sum(len(text.split()) for text in distinct)
    by_statements = (2 * right + FREE_STATEMENTS) / max(len(distinct), 1)
    by_words = (WORDS_PER_ANSWER * answers + FREE_WORDS) / max(words, 1)
    return min(1.0, by_statements, by_words)


def token_f1(text: str, alias: str) -> float:
    """SQuAD's F1 of the normalized tokens (Rajpurkar et al. 2016), in [0, 1].

    >>> token_f1("It was 109 goals", "109 goals"), token_f1("805", "109 goals")
    (0.6666666666666666, 0.0)
    """
    words, gold = Counter(normalize(text).split()), Counter(normalize(alias).split())
    common = (words & gold).total()
    return 2 * common / (words.total() + gold.total()) if common else 0.0


def fuzzy_containment(text: str, alias: str) -> float:
    """How well the normalized text contains the normalized alias, in [0, 1]: rapidfuzz's partial ratio.

    A partial ratio slides the shorter text over the longer one, so that a text shorter than the alias would score 1 as
    a piece of it. Such a text is compared with all of the alias.

    >>> fuzzy_containment("It was Ali Daei.", "Ali Daei"), fuzzy_containment("li", "Ali Daei")
    (1.0, 0.4)
    """
    body, key = normalize(text), normalize(alias)
    if not body or not key:
        return 0.0
    return (fuzz.ratio if len(body) < len(key) else fuzz.partial_ratio)(body, key) / 100


def overlap_rewards(
    example: Example, answers: Sequence[ParsedAnswer], measure: Callable[[str, str], float]
) -> list[float]:
    """The best `measure(answer without citations, spelling)` of each answer of a group."""
    aliases = [alias for spellings in rewardable_answers(example).values() for alias in spellings.values()]

    def best(answer: ParsedAnswer) -> float:
        if not answer.well_formed or answer.refused:
            return 0.0
        text = strip_citations(" ".join(answer.answer_text.split()))
        return max((measure(text, alias) for alias in aliases), default=0.0)

    return [best(answer) for answer in answers]
