"""R_EM (Ground-GRPO eq 1): 0.5 for each statement with a gold answer. Also token F1 and fuzzy containment.

The paper sums over statements without a bound, so that one right sentence written n times earns n times the reward.
By default, a statement earns only with a gold answer that no statement before it has. The sum is then at most 0.5 per
gold answer, and never more than the paper's. The first mention counts, not the best: otherwise a model could cite each
passage in turn and keep the hit. The price: after "Both A and B won." the sentences on A and B alone earn nothing.

A claim counts when all statements together entail it, as in ALCE and the Trust-Score. The statements that hold its
words share its 0.5.

`anti_gaming` adds a rule. Copying all passages gives every answer without knowing one; statements and words far beyond
those of a right answer therefore shrink its reward (`length_penalty`).

Token F1 and fuzzy containment are in [0, 1], for recipes that name them: the best over all spellings of all rewardable
answers, and 0 for a malformed answer, a refusal, and a question without gold answers.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from rapidfuzz import fuzz

from grpo.data.example import Example
from grpo.data.text import contains, strip_citations, word_count, words
from rewards.answer import ParsedAnswer, Statement, carriers
from rewards.judges.base import ENTAILMENT_THRESHOLD, Pair, Verdicts

AnswerIndices = frozenset[int]  # indices of the gold answers that a statement states
EXACT_MATCH = 0.5
FREE_STATEMENTS = 2  # statements of introduction or context without a penalty, beside two for every right statement
FREE_WORDS, WORDS_PER_ANSWER, WORDS_PER_CLAIM = 40, 30, 20  # words without a penalty, in total and per gold answer


def rewardable_answers(example: Example) -> dict[int, tuple[str, ...]]:
    """Answer index -> spellings, without those that have no words.

    Only answers that the passages support are rewardable, which the paper leaves open. A closed-book question has no
    passages, so that all its answers are.
    """
    indices = range(len(example.answers)) if example.style == "closed" else example.answerable_indices
    return {index: tuple(alias for alias in example.answers[index] if words(alias)) for index in indices}


def answers_mentioned(text: str, answers: Mapping[int, tuple[str, ...]]) -> set[int]:
    """Indices of the answers (index -> spellings) that a text contains as whole words.

    >>> answers = {0: ("38",), 1: ("Ali Daei", "Daei")}
    >>> answers_mentioned("Daei, in 1938.", answers), answers_mentioned("The 38-year-old Daei.", answers)
    ({1}, {0, 1})
    """
    return {index for index, spellings in answers.items() if contains(text, spellings)}


def claim_pairs(example: Example, rows: Sequence[Sequence[Statement]]) -> Iterator[tuple[str, int, Pair]]:
    """(answer, claim index, pair to judge) for the answers that may entail a claim; none for other styles.

    The premise is the answer as a whole: all of its statements.
    """
    if example.style != "claims":
        return
    answers = rewardable_answers(example)
    for text in dict.fromkeys(filter(None, map(_whole, rows))):
        for index in answers.keys() - answers_mentioned(text, answers):
            for claim in answers[index]:
                yield text, index, (text, claim)


def answers_stated(
    example: Example,
    rows: Sequence[Sequence[Statement]],
    verdicts: Verdicts,
    *,
    repeats: bool = False,
) -> list[list[AnswerIndices]]:
    """The gold answers that each statement of each completion states. `verdicts` are those of `claim_pairs`.

    A claim is stated by the statements that hold its words (`carriers`), and with `repeats` by their repetitions.
    """
    answers = rewardable_answers(example)
    if example.style != "claims":
        return [[frozenset(answers_mentioned(statement.text, answers)) for statement in row] for row in rows]
    entailed = {text: answers_mentioned(text, answers) for text in map(_whole, rows)}
    for text, index, pair in claim_pairs(example, rows):
        if verdicts[pair] > ENTAILMENT_THRESHOLD:
            entailed[text].add(index)
    stated: list[list[AnswerIndices]] = []
    for row in rows:
        carried = {index: carriers(row, answers[index], repeats=repeats) for index in entailed[_whole(row)]}
        stated.append([frozenset(index for index, by in carried.items() if n in by) for n in range(len(row))])
    return stated


def statement_credits(row: Sequence[AnswerIndices], *, shared: bool = False, uncapped_sum: bool = False) -> list[float]:
    """What each statement earns of eq 1's 0.5, from 0 to 1.

    A statement with an answer that none before it has earns 1. If statements share answers, as with claims, each earns
    the sum of its shares, at most 1. With `uncapped_sum` any statement with an answer earns 1.

    >>> row = [frozenset({0}), frozenset(), frozenset({0}), frozenset({0, 1})]
    >>> statement_credits(row), statement_credits(row, uncapped_sum=True)
    ([1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0])
    >>> statement_credits([frozenset({0}), frozenset({0, 1}), frozenset()], shared=True)
    [0.5, 1.0, 0.0]
    """
    if uncapped_sum:
        return [float(bool(answers)) for answers in row]
    if shared:
        counts = Counter(index for answers in row for index in answers)
        return [min(1.0, sum((1 / counts[index] for index in answers), 0.0)) for answers in row]
    seen: set[int] = set()
    shares = []
    for answers in row:
        shares.append(float(bool(answers - seen)))
        seen |= answers
    return shares


def _whole(row: Sequence[Statement]) -> str:
    return " ".join(statement.text for statement in row)


def words_allowed(example: Example, stated: AnswerIndices) -> float:
    """Words without a penalty in an answer that states these gold answers: 40 and 30 for each, or 20 for each claim.

    Long answers are allowed 10 words and a quarter beyond their own. People's answers to 100 questions stayed below
    that, and 94 of the passages that they were written from did not (docs/data-and-rewards.md).
    """
    own = sum(min(map(word_count, example.answers[a])) for a in stated)
    each = WORDS_PER_CLAIM if example.style == "claims" else WORDS_PER_ANSWER
    return max(FREE_WORDS + each * len(stated), 10 + 1.25 * own)


def length_penalty(right: int, allowed: float, statements: Sequence[Statement]) -> float:
    """Factor in (0, 1] on the reward of `right` statements among `statements`, with `allowed` words:
    min(1, (2 right + 2) / distinct statements, allowed / words of the distinct statements).

    Repeats are not counted, because they earn nothing. Words are counted as well because a copy may be one endless
    sentence. Not in the paper.

    >>> lines = [Statement(text, ()) for text in "bcdefghi"]
    >>> [length_penalty(1, 70, lines[:4]), length_penalty(1, 70, lines), length_penalty(3, 130, lines)]
    [1.0, 0.5, 1.0]
    >>> long = [Statement(" ".join(str(n) for n in range(140)), ())]
    >>> length_penalty(1, 70, long), length_penalty(1, 160, long), length_penalty(1, 70, lines[:1] * 9)
    (0.5, 1.0, 1.0)
    """
    distinct = {words(statement.text): word_count(statement.text) for statement in statements}
    by_statements = (2 * right + FREE_STATEMENTS) / max(len(distinct), 1)
    return min(1.0, by_statements, allowed / max(sum(distinct.values()), 1))


def token_f1(text: str, alias: str) -> float:
    """SQuAD's F1 (Rajpurkar et al. 2016), over `grpo.data.text.words` in place of its tokens, in [0, 1].

    >>> token_f1("It was 109 goals", "109 goals"), token_f1("805", "109 goals")
    (0.6666666666666666, 0.0)
    """
    said, gold = Counter(words(text).split()), Counter(words(alias).split())
    common = (said & gold).total()
    return 2 * common / (said.total() + gold.total()) if common else 0.0


def fuzzy_containment(text: str, alias: str) -> float:
    """How well the normalized text contains the normalized alias, in [0, 1]: rapidfuzz's partial ratio.

    A partial ratio slides the shorter text over the longer one, so that a text shorter than the alias would score 1 as
    a piece of it. Such a text is compared with all of the alias.

    >>> fuzzy_containment("It was Ali Daei.", "Ali Daei"), fuzzy_containment("li", "Ali Daei")
    (1.0, 0.4)
    """
    body, key = words(text), words(alias)
    if not body or not key:
        return 0.0
    return (fuzz.ratio if len(body) < len(key) else fuzz.partial_ratio)(body, key) / 100


def overlap_rewards(
    example: Example, answers: Sequence[ParsedAnswer], measure: Callable[[str, str], float]
) -> list[float]:
    """The best `measure(answer without citations, spelling)` of each answer of a group."""
    aliases = [alias for spellings in rewardable_answers(example).values() for alias in spellings]

    def best(answer: ParsedAnswer) -> float:
        if not answer.well_formed or answer.refused:
            return 0.0
        text = strip_citations(" ".join(answer.answer_text.split()))
        return max((measure(text, alias) for alias in aliases), default=0.0)

    return [best(answer) for answer in answers]
