"""Trust-Score while training: the metrics of the evaluation, on rollouts and held-out answers."""

from collections.abc import Sequence

from eval.answer_extraction import DefaultProtocol
from eval.answer_scores import score_answers
from eval.predictions import Prediction
from eval.trust_score import COLUMNS, scores
from grpo.data.example import Example
from grpo.data.text import REFUSALS
from grpo.types import Completion
from rewards.judges.base import Judge


class OnlineTrustScore:
    """Scores of (example, completion) pairs: `OnlineTrustScore(LexicalJudge(), reasoning=False)`."""

    def __init__(self, judge: Judge, *, reasoning: bool, refusals: Sequence[str] = REFUSALS) -> None:
        self._judge, self._reasoning = judge, reasoning
        self._protocol = DefaultProtocol(refusals)

    def __call__(self, answers: Sequence[tuple[Example, Completion]]) -> dict[str, float]:
        """Every metric of `eval.trust_score.scores` and the share of answerable questions, in percent.

        Closed-book questions are left out, since they have no passages to cite.
        """
        asked = [Prediction(example, answer.text) for example, answer in answers if example.style != "closed"]
        if not asked:
            return {}
        scored = score_answers(asked, self._judge, protocol=self._protocol, reasoning=self._reasoning)
        sums = scored.sums_IK.sum(0)
        metrics = {name: float(values[0]) for name, values in scores(sums).items()}
        answerable = 100 * float(sums[COLUMNS.index("answerable")]) / len(asked)
        for name, share in (("over_refusal", answerable), ("over_answer", 100 - answerable)):
            if not share:
                del metrics[name]  # a share of no questions must not enter an average over steps
        return {**metrics, "answerable": answerable}
