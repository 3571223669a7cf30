"""How sure are the numbers? Percentile bootstrap over questions, paired where two runs answered the same ones.

I questions, K columns of sums, R resamples. A resample is a row of multinomial counts, so that all of them together are
one product [R, I] @ [I, K].
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = Callable[[Floats], Mapping[str, Floats]]

_AT_ONCE = 4_000_000  # counts held at a time: 32 MB


def intervals(
    sums_IK: Floats, scores: Scores, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """{name: (low, high)}: the middle `level` of each number over resamples of the questions."""
    parts = [scores(counts_RI @ sums_IK) for counts_RI in _counts(len(sums_IK), resamples, seed)]
    tail = 100 * (1 - level) / 2
    found = {}
    for name in parts[0]:
        low, high = np.percentile(np.concatenate([part[name] for part in parts]), [tail, 100 - tail])
        found[name] = (float(low), float(high))
    return found


def paired(
    sums_a_IK: Floats, sums_b_IK: Floats, scores: Scores, *, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """{name: (b - a, p)} for two runs over the same questions in the same order.

    p is two-sided: twice the smaller share of resamples in which the difference is not above, or not below, 0; with one
    added to both counts, so that it is never 0.
    """
    if sums_a_IK.shape != sums_b_IK.shape:
        raise ValueError(f"paired sums of {sums_a_IK.shape} and {sums_b_IK.shape}")
    whole_a, whole_b = scores(sums_a_IK.sum(0)), scores(sums_b_IK.sum(0))
    names = [name for name in whole_a if name in whole_b]
    below, above = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for counts_RI in _counts(len(sums_a_IK), resamples, seed):
        a, b = scores(counts_RI @ sums_a_IK), scores(counts_RI @ sums_b_IK)
        for name in names:
            below[name] += int((b[name] - a[name] <= 0).sum())
            above[name] += int((b[name] - a[name] >= 0).sum())
    return {
        name: (
            float(whole_b[name][0] - whole_a[name][0]),
            min(1.0, 2 * (min(below[name], above[name]) + 1) / (resamples + 1)),
        )
        for name in names
    }


def _counts(questions: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each question is drawn, [R, I] in parts that fit into memory; the same for the same seed."""
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // max(questions, 1))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        yield rng.multinomial(questions, np.full(questions, 1 / questions), size=rows).astype(np.float64)
