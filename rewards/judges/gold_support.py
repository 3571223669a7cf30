"""Whether a judge supports the data's own gold statements: one that does not teaches not to cite."""

from collections.abc import Iterable

from grpo.data.example import Example
from grpo.data.sentences import statements
from rewards.answer import accepted_answers
from rewards.judges.base import ENTAILMENT_THRESHOLD, Judge, Pair, ask, premise

LEAST_SUPPORT = 0.5
BETTER = "google/t5_xxl_true_nli_mixture (the paper's judge) or another NLI model, as reward.judge=OWNER/MODEL"


def gold_pairs(example: Example, answer: str) -> list[Pair]:
    """(cited passages, statement) for each cited statement of a gold answer, and (holders, claim) for each claim."""
    listed = example.style == "list"
    count = len(example.passages)
    pairs = [
        (premise([example.passages[n - 1] for n in sorted(set(cites))]), said)
        for said, cites in statements(answer, accepted_answers(example), listed=listed)[0]
        if cites and all(1 <= n <= count for n in cites)
    ]
    if example.style == "claims":
        for a in example.answerable_indices:
            holders = premise([example.passages[n - 1] for n in sorted(example.passages_with(a))])
            pairs.append((holders, example.answers[a][0]))
    return pairs


def judge_warning(judge: Judge, name: str, golds: Iterable[tuple[Example, str]]) -> str | None:
    """One line if the judge supports less than half of the gold statements of these (question, gold answer); else None.

    Citing such a statement costs reward although it is right.
    """
    verdicts = ask(judge, [pair for example, answer in golds for pair in gold_pairs(example, answer)])
    supported = sum(p > ENTAILMENT_THRESHOLD for p in verdicts.values())
    if supported >= LEAST_SUPPORT * len(verdicts):
        return None
    return (
        f"judge {name}: supports {supported} of {len(verdicts)} gold statements by the passages that they cite; "
        f"right citations cost reward; a better judge: {BETTER}"
    )
