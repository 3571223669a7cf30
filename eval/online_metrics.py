"""Trust-Score while training: the same numbers on whatever answers are at hand."""

from collections.abc import Sequence

from eval.answer_extraction import Reader
from eval.judging import judge
from eval.predictions import STYLES, Prediction
from eval.sentence_splitter import make_splitter
from eval.trust_score import COLUMNS, scores
from grpo.data.example import Example
from grpo.types import Completion
from rewards.judges.base import Verifier


class Live:
    """Scores (example, completion) pairs by the default reading; `Live(Lexical(), reasoning=False)`."""

    def __init__(self, verifier: Verifier, *, reasoning: bool) -> None:
        self._verifier, self._reasoning = verifier, reasoning
        self._reading = Reader(make_splitter())

    def __call__(self, answers: Sequence[tuple[Example, Completion]]) -> dict[str, float]:
        """Every number of `eval.trust_score.scores` in percent, and the share of answerable questions; closed-book
        questions, which have nothing to cite, are left out."""
        asked = [Prediction(example, answer.text) for example, answer in answers if example.style in STYLES]
        if not asked:
            return {}
        sums = judge(asked, self._verifier, reading=self._reading, reasoning=self._reasoning).sums_IK.sum(0)
        numbers = {name: float(values[0]) for name, values in scores(sums).items()}
        answerable = 100 * float(sums[COLUMNS.index("answerable")]) / len(asked)
        for name, share in (("over_refusal", answerable), ("over_answer", 100 - answerable)):
            if not share:
                del numbers[name]  # a share of no questions is no number to average over steps
        return {**numbers, "answerable": answerable}
