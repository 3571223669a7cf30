"""Metrics of the held-out table: right and rightly cited answers, and refusals of questions without an answer.

They follow from the labels (`found`) and no reward formula, so that a policy that games a reward does not look good.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.factuality import outcome
from grpo.data.example import Example
from grpo.data.text import REFUSALS, contains
from grpo.rollout.base import RolloutEngine, sample_groups
from grpo.types import Completion, PromptRenderer, Sampling
from rewards.answer import ParsedAnswer, Statement, carriers, parse_completion
from rewards.judges.base import ENTAILMENT_THRESHOLD
from rewards.judges.lexical import LexicalJudge


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """One answer compared with its labels; the shares are over the answers that the passages hold."""

    answerable: bool
    refused: bool
    well_formed: bool
    right: float  # share stated
    grounded: float  # share stated in a statement that cites only passages with its answers


def grade(example: Example, completion: Completion, *, reasoning: bool, refusals: Sequence[str] = REFUSALS) -> Grade:
    """Grade one completion. Answers that the passages do not hold are ignored.

    A closed-book answer is right and grounded when it is correct, and refused when it is not attempted.
    """
    answer = parse_completion(example, completion, reasoning=reasoning, refusals=refusals)
    if example.style == "closed":
        finished = completion.finish == "stop"
        found = outcome(example, completion.text, reasoning=reasoning, refusals=refusals, finished=finished)
        correct = float(found == "correct")
        return Grade(
            answerable=example.answerable,
            refused=found == "not_attempted",
            well_formed=answer.well_formed,
            right=correct,
            grounded=correct,
        )
    supported = example.answerable_indices
    said = [] if answer.refused else _stated(answer, example)
    right = {a for _, stated in said for a in stated}
    grounded = {a for statement, stated in said for a in stated if _well_cited(statement, a, stated, example)}
    count = max(len(supported), 1)
    return Grade(
        answerable=example.answerable,
        refused=answer.refused,
        well_formed=answer.well_formed,
        right=len(right) / count,
        grounded=len(grounded) / count,
    )


def summarize(grades: Sequence[Grade]) -> dict[str, float]:
    """Percentages over the answerable and over the unanswerable questions; {} for a kind that was not asked."""
    rows: dict[str, float] = {}
    answerable = [g for g in grades if g.answerable]
    others = [g for g in grades if not g.answerable]
    if answerable:
        rows["grounded"] = _percent([g.grounded for g in answerable])
        rows["right"] = _percent([g.right for g in answerable])
        rows["refused_answerable"] = _percent([g.refused for g in answerable])
    if others:
        rows["refused_unanswerable"] = _percent([g.refused for g in others])
    rows["well_formed"] = _percent([g.well_formed for g in grades])
    return rows


def evaluate(
    rollout: RolloutEngine,
    examples: Sequence[Example],
    render: PromptRenderer,
    *,
    max_tokens: int,
    reasoning: bool,
    version: int,
    refusals: Sequence[str] = REFUSALS,
) -> list[tuple[Example, Completion, Grade]]:
    """Sample greedy answers to the examples and grade them; `summarize` takes the grades."""
    sampling = Sampling(group_size=1, max_tokens=max_tokens, temperature=0.0)
    groups = sample_groups(rollout, examples, render, sampling, seed=0, version=version)
    return [
        (g.example, g.completions[0], grade(g.example, g.completions[0], reasoning=reasoning, refusals=refusals))
        for g in groups
    ]


def _stated(answer: ParsedAnswer, example: Example) -> list[tuple[Statement, set[int]]]:
    """The answers in each statement; a claim that the whole answer entails is in the statements with its words."""
    answers = {a: example.answers[a] for a in example.answerable_indices}
    if example.style != "claims":
        return [(s, {a for a in answers if contains(s.text, answers[a])}) for s in answer.statements]
    pairs = {a: [(answer.answer_text, claim) for claim in answers[a]] for a in answers}
    entailed = [a for a in answers if max(LexicalJudge().entails(pairs[a])) > ENTAILMENT_THRESHOLD]
    carried = {a: carriers(answer.statements, answers[a]) for a in entailed}
    return [(s, {a for a in carried if n in carried[a]}) for n, s in enumerate(answer.statements)]


def _well_cited(statement: Statement, answer: int, stated: set[int], example: Example) -> bool:
    cites, holders = set(statement.cites), example.passages_with(answer)
    all_holders = frozenset().union(*(example.passages_with(a) for a in stated))
    return bool(cites & holders) and cites <= all_holders


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)
