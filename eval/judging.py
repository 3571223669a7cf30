"""What does each answer add to the scores? Whether it refuses, what it says, and how its citations hold up.

The verifier is asked in a few large batches, whatever the number of answers. Which words count as a refusal, a
statement or a citation is the business of `eval.answer_extraction`, what becomes of the sums that of
`eval.trust_score`.

I questions, K columns of `eval.trust_score.COLUMNS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from eval.answer_extraction import Reading, Statement
from eval.predictions import Prediction
from eval.trust_score import COLUMNS, Floats
from grpo.data.example import Example
from grpo.data.text import normalize
from rewards.answer import parse
from rewards.judges.base import ENTAILED, Verifier, premise


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One answer, judged. Shares from 0 to 1."""

    example: Example
    text: str  # the answer part, as read
    bare: str  # without citation marks
    refused: bool
    refused_bare: bool  # judged without citation marks, which is how the field's evaluator asks when it grades answers
    hits: tuple[float, ...]  # per gold answer: said, or for claims entailed
    items: tuple[str, ...] = ()  # of a list, normalized
    statements: int = 0
    cited: bool = False  # counts in citation recall and precision
    recall: float = 0.0
    precision: float = 0.0
    precision_strict: float = 0.0
    precision_shared: float = 0.0
    aligned: float | None = None  # None without reasoning


@dataclass(frozen=True, slots=True)
class Items:
    """The judged answers, and their sums: `sums_IK.sum(0)` is what `scores` takes."""

    judged: tuple[Judged, ...]
    sums_IK: Floats


@dataclass(slots=True)
class _Cited:
    """A statement while its citations are judged."""

    owner: int  # index of the prediction
    statement: Statement
    supported: bool = False
    strict: int = 0  # precise citations
    shared: int = 0


def judge(predictions: Sequence[Prediction], verifier: Verifier, *, reading: Reading, reasoning: bool = False) -> Items:
    """Every answer judged; the verifier is asked in four batches, whatever the number of answers.

    With `reasoning` only the part between the answer tags is scored, and %Align asks of the thinking.
    """
    judged = []
    thoughts: list[str] = []
    for prediction in predictions:
        text, thought = prediction.output, ""
        if reasoning:
            answer = parse(prediction.output, style=prediction.example.style, reasoning=True)
            text, thought = answer.answer_text, answer.think_text
        thoughts.append(thought)
        judged.append(_read(prediction.example, text, reading))
    _hear_claims(judged, verifier, reading)
    _hear_citations(judged, verifier, reading)
    if reasoning:
        verdicts = verifier.entails([(thought, one.bare) for thought, one in zip(thoughts, judged, strict=True)])
        judged = [
            replace(one, aligned=float(bool(thought.strip() and one.bare) and p > ENTAILED))
            for one, thought, p in zip(judged, thoughts, verdicts, strict=True)
        ]
    return Items(tuple(judged), np.array([_sums(one) for one in judged], dtype=np.float64).reshape(-1, len(COLUMNS)))


def _read(example: Example, text: str, reading: Reading) -> Judged:
    """What needs no verifier."""
    bare = reading.bare(text)
    items = tuple(reading.items(bare, example)) if example.style == "list" else ()
    hits: tuple[float, ...] = ()
    if example.style == "prose":
        hits = tuple(float(reading.says(bare, aliases)) for aliases in example.answers)
    elif example.style == "list":
        said = set(items)
        hits = tuple(float(any(normalize(alias) in said for alias in aliases)) for aliases in example.answers)
    refused = reading.refused(text)
    return Judged(
        example=example,
        text=text,
        bare=bare,
        refused=refused,
        cited=reading.counts_silence,
        refused_bare=reading.refused(bare) if reading.grades_bare else refused,
        hits=hits,
        items=items,
    )


def _hear_claims(judged: list[Judged], verifier: Verifier, reading: Reading) -> None:
    """Fill in which claims each answer entails: the whole answer is the premise."""
    asked = [
        (index, claim, wording)
        for index, one in enumerate(judged)
        if one.example.style == "claims"
        for claim, aliases in enumerate(one.example.answers)
        for wording in reading.claims(aliases)
    ]
    if not asked:
        return
    verdicts = verifier.entails([(judged[index].bare, wording) for index, _, wording in asked])
    held = {(index, claim) for (index, claim, _), p in zip(asked, verdicts, strict=True) if p > ENTAILED}
    if reading.counts_silence:
        held = {(index, claim) for index, claim in held if normalize(judged[index].bare)}
    for index in {index for index, _, _ in asked}:
        one = judged[index]
        judged[index] = replace(one, hits=tuple(float((index, c) in held) for c in range(len(one.example.answers))))


def _hear_citations(judged: list[Judged], verifier: Verifier, reading: Reading) -> None:
    """Fill in citation recall and precision. A citation is precise when its passage alone entails the statement, or
    when the others do not without it."""
    cited = [
        _Cited(index, statement)
        for index, one in enumerate(judged)
        for statement in reading.statements(one.text, one.example)
    ]

    def ask(questions: Sequence[tuple[_Cited, tuple[int, ...]]]) -> list[bool]:
        pairs = [(_premise(judged[c.owner].example, sources), c.statement.text) for c, sources in questions]
        return [p > ENTAILED for p in verifier.entails(pairs)] if pairs else []

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
        c.shared += not held or _share(judged[c.owner].example, source, rest)

    owned: dict[int, list[_Cited]] = {}
    for c in cited:
        owned.setdefault(c.owner, []).append(c)
    for index, statements in owned.items():
        charged = sum(c.statement.charged for c in statements)
        strict = sum(c.strict for c in statements) / max(charged, 1)
        shared = sum(c.shared for c in statements) / max(charged, 1)
        judged[index] = replace(
            judged[index],
            statements=len(statements),
            cited=True,
            recall=sum(c.supported for c in statements) / len(statements),
            precision=shared if reading.precise_if_shared else strict,
            precision_strict=strict,
            precision_shared=shared,
        )


def _premise(example: Example, sources: Sequence[int]) -> str:
    return premise([example.passages[source] for source in sources])


def _without(sources: tuple[int, ...], source: int) -> tuple[int, ...]:
    """The others: one mention less, so that a passage cited twice is among its own others."""
    place = sources.index(source)
    return sources[:place] + sources[place + 1 :]


def _share(example: Example, source: int, rest: Sequence[int]) -> bool:
    """Whether a passage holds an answer that one of the others holds too."""
    return any(flag and any(example.found[other][a] for other in rest) for a, flag in enumerate(example.found[source]))


def answer_correctness(one: Judged) -> float:
    """AC_q, 0 to 1: of the gold answers that the passages hold, the share that is said. 0 for a refusal, and for a
    question that the passages do not answer.

    For lists it is the F1 of precision (entries that are a gold answer) and top-5 recall (five right entries are all
    that anyone asks for).
    """
    supported = one.example.answerable_indices
    if one.refused_bare or not supported:
        return 0.0
    said = sum(one.hits[a] for a in supported)
    if one.example.style != "list":
        return said / len(supported)
    return f1(list_precision(one, supported), min(5.0, said) / min(5, len(supported)))


def list_precision(one: Judged, answers: Sequence[int]) -> float:
    """The share of a list's entries that are one of these gold answers, in any spelling."""
    keys = {normalize(alias) for a in answers for alias in one.example.answers[a]}
    return sum(item in keys for item in one.items) / max(len(one.items), 1)


def f1(a: float, b: float) -> float:
    """Harmonic mean, 0 when both are."""
    return 2 * a * b / (a + b) if a + b else 0.0


def _sums(one: Judged) -> list[float]:
    """One question's row of COLUMNS."""
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
