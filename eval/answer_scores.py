"""Scores of single answers: refusal, correctness, and citation recall and precision by a judge of entailment.

`eval.answer_extraction` reads the answers, and `eval.trust_score` turns the sums of their scores into Trust-Score.

I questions, K columns of `eval.trust_score.COLUMNS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from eval.answer_extraction import CitedStatement, ExtractionProtocol
from eval.predictions import Prediction
from eval.trust_score import COLUMNS, Floats
from grpo.data.example import Example
from rewards.answer import parse
from rewards.judges.base import ENTAILMENT_THRESHOLD, Judge, premise


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerScores:
    """The scores of one answer, as shares from 0 to 1."""

    example: Example
    text: str  # the output, or the part between answer tags
    bare: str  # `text` without citation marks
    refused: bool
    refused_bare: bool  # the refusal test that correctness uses: trust_eval applies it to `bare`
    hits: tuple[float, ...]  # per gold answer: contained, or for claims entailed
    items: tuple[frozenset[int], ...] = ()  # per entry of a list, the gold answers that it equals
    statements: int = 0
    cited: bool = False  # counts in citation recall and precision
    recall: float = 0.0
    precision: float = 0.0
    precision_strict: float = 0.0
    precision_shared: float = 0.0
    aligned: float | None = None  # None without reasoning


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """Scored answers and their rows of sums; `eval.trust_score.scores` takes `sums_IK.sum(0)`."""

    answers: tuple[AnswerScores, ...]
    sums_IK: Floats


@dataclass(slots=True)
class _JudgedStatement:
    """A statement and the verdicts on its citations so far."""

    answer: int  # index of the prediction
    statement: CitedStatement
    supported: bool = False
    strict: int = 0  # precise citations
    shared: int = 0


def score_answers(
    predictions: Sequence[Prediction], judge: Judge, *, protocol: ExtractionProtocol, reasoning: bool = False
) -> ScoredAnswers:
    """Score every answer; the judge gets at most five batches, whatever the number of answers.

    With `reasoning` only the part between the answer tags is scored, and %Align tests whether the thinking entails it.
    """
    judged = []
    thoughts: list[str] = []
    for prediction in predictions:
        text, thought = prediction.output, ""
        if reasoning:
            answer = parse(prediction.output, style=prediction.example.style, reasoning=True)
            text, thought = answer.answer_text, answer.think_text
        thoughts.append(thought)
        judged.append(_score_text(prediction.example, text, protocol))
    _score_claims(judged, judge, protocol)
    _score_citations(judged, judge, protocol)
    if reasoning:
        verdicts = judge.entails([(thought, one.bare) for thought, one in zip(thoughts, judged, strict=True)])
        judged = [
            replace(one, aligned=float(bool(thought.strip() and one.bare) and p > ENTAILMENT_THRESHOLD))
            for one, thought, p in zip(judged, thoughts, verdicts, strict=True)
        ]
    return ScoredAnswers(
        tuple(judged), np.array([_sums(one) for one in judged], dtype=np.float64).reshape(-1, len(COLUMNS))
    )


def _score_text(example: Example, text: str, protocol: ExtractionProtocol) -> AnswerScores:
    """The scores that need no judge."""
    bare = protocol.strip_citations(text)
    items: tuple[frozenset[int], ...] = ()
    hits: tuple[float, ...] = ()
    if example.style == "prose":
        hits = tuple(float(protocol.contains_answer(bare, aliases)) for aliases in example.answers)
    elif example.style == "list":
        keys = [{protocol.key(alias) for alias in aliases} for aliases in example.answers]
        items = tuple(
            frozenset(a for a, equal in enumerate(keys) if item in equal) for item in protocol.list_items(text, example)
        )
        hits = tuple(float(any(a in item for item in items)) for a in range(len(keys)))
    refused = protocol.is_refusal(text)
    return AnswerScores(
        example=example,
        text=text,
        bare=bare,
        refused=refused,
        cited=protocol.scores_empty_answers,
        refused_bare=protocol.is_refusal(bare) if protocol.regrades_refusals else refused,
        hits=hits,
        items=items,
    )


def _score_claims(judged: list[AnswerScores], judge: Judge, protocol: ExtractionProtocol) -> None:
    """Fill in `hits` of claims: the premise is the whole answer."""
    asked = [
        (index, claim, wording)
        for index, one in enumerate(judged)
        if one.example.style == "claims"
        for claim, aliases in enumerate(one.example.answers)
        for wording in protocol.claim_wordings(aliases)
    ]
    if not asked:
        return
    verdicts = judge.entails([(judged[index].bare, wording) for index, _, wording in asked])
    held = {(index, claim) for (index, claim, _), p in zip(asked, verdicts, strict=True) if p > ENTAILMENT_THRESHOLD}
    if protocol.scores_empty_answers:
        held = {(index, claim) for index, claim in held if protocol.key(judged[index].bare)}
    for index in {index for index, _, _ in asked}:
        one = judged[index]
        judged[index] = replace(one, hits=tuple(float((index, c) in held) for c in range(len(one.example.answers))))


def _score_citations(judged: list[AnswerScores], judge: Judge, protocol: ExtractionProtocol) -> None:
    """Fill in citation recall and precision.

    A citation is precise when its passage alone entails the statement, or when the other cited passages do not.
    """
    cited = [
        _JudgedStatement(index, statement)
        for index, one in enumerate(judged)
        for statement in protocol.statements(one.text, one.example)
    ]

    def shown(example: Example, sources: Sequence[int]) -> str:
        return premise([example.passages[source] for source in sources], footnotes=protocol.keeps_footnotes)

    def ask(questions: Sequence[tuple[_JudgedStatement, tuple[int, ...]]]) -> list[bool]:
        pairs = [(shown(judged[c.answer].example, sources), c.statement.text) for c, sources in questions]
        return [p > ENTAILMENT_THRESHOLD for p in judge.entails(pairs)] if pairs else []

    joint = [c for c in cited if c.statement.sources]
    for c, held in zip(joint, ask([(c, c.statement.sources) for c in joint]), strict=True):
        c.supported = held
        if held and len(c.statement.sources) == 1:
            c.strict = c.shared = 1
    several = [(c, s) for c in joint if c.supported and len(c.statement.sources) > 1 for s in c.statement.sources]
    doubted = []
    for (c, source), held in zip(several, ask([(c, (source,)) for c, source in several]), strict=True):
        if held:
            c.strict, c.shared = c.strict + 1, c.shared + 1
        else:
            doubted.append((c, source, _without(c.statement.sources, source)))
    for (c, source, rest), held in zip(doubted, ask([(c, rest) for c, _, rest in doubted]), strict=True):
        c.strict += not held
        c.shared += not held or _shares_answer(judged[c.answer].example, source, rest)

    by_answer: dict[int, list[_JudgedStatement]] = {}
    for c in cited:
        by_answer.setdefault(c.answer, []).append(c)
    for index, statements in by_answer.items():
        citations = sum(c.statement.citations for c in statements)
        strict = sum(c.strict for c in statements) / max(citations, 1)
        shared = sum(c.shared for c in statements) / max(citations, 1)
        judged[index] = replace(
            judged[index],
            statements=len(statements),
            cited=True,
            recall=sum(c.supported for c in statements) / len(statements),
            precision=shared if protocol.allows_shared_citations else strict,
            precision_strict=strict,
            precision_shared=shared,
        )


def _without(sources: tuple[int, ...], source: int) -> tuple[int, ...]:
    """The citations with one mention of `source` less; a passage that is cited twice stays once."""
    place = sources.index(source)
    return sources[:place] + sources[place + 1 :]


def _shares_answer(example: Example, source: int, rest: Sequence[int]) -> bool:
    """Whether a passage holds an answer that another cited passage holds too."""
    return any(flag and any(example.found[other][a] for other in rest) for a, flag in enumerate(example.found[source]))


def answer_correctness(one: AnswerScores) -> float:
    """AC_q, 0 to 1: the share of the answers held by the passages that the text contains; 0 for a refusal.

    For lists AC_q is the F1 of precision and top-5 recall (five right entries are full recall).
    """
    supported = one.example.answerable_indices
    if one.refused_bare or not supported:
        return 0.0
    said = sum(one.hits[a] for a in supported)
    if one.example.style != "list":
        return said / len(supported)
    return f1(list_precision(one, supported), min(5.0, said) / min(5, len(supported)))


def list_precision(one: AnswerScores, answers: Sequence[int]) -> float:
    """The share of list entries that equal one of these gold answers in any spelling."""
    return sum(not item.isdisjoint(answers) for item in one.items) / max(len(one.items), 1)


def f1(a: float, b: float) -> float:
    """Harmonic mean; 0 when both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def _sums(one: AnswerScores) -> list[float]:
    """The row of COLUMNS of one question."""
    answered, answerable = not one.refused, one.example.answerable
    graded = not one.refused_bare if one.example.style == "claims" else answered
    cited = answered and one.cited
    row = {
        "questions": 1,
        "answered": answered,
        "answerable": answerable,
        "answered_answerable": answered and answerable,
        "graded": graded,
        "correct_graded": answer_correctness(one) if graded else 0,
        "correct": answer_correctness(one),
        "cited": cited,
        "recall": one.recall if cited else 0,
        "precision": one.precision if cited else 0,
        "precision_strict": one.precision_strict if cited else 0,
        "precision_shared": one.precision_shared if cited else 0,
        "reasoned": one.aligned is not None,
        "aligned": one.aligned or 0,
    }
    return [float(row[name]) for name in COLUMNS]
