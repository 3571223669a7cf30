"""Trust-Score (Trust-Align, arXiv 2409.11242; Ground-GRPO, appendix A), from sums over questions.

    AR       share of questions answered, that is, not refused
    F1_GR    mean of the F1 of refusing and the F1 of answering                      (grounded refusals)
    F1_AC    harmonic mean of the answers' correctness per answered and per answerable question
             (a claim that no passage holds does not count)                          (answer correctness)
    F1_GC    harmonic mean of citation recall and precision over answered questions  (grounded citations)
    Trust    mean of F1_GR, F1_AC and F1_GC

Every metric is a function of sums over questions (`COLUMNS`), so that a bootstrap resample is one matrix product.
`eval.answer_scores` computes what each question adds to the sums.

K columns of `COLUMNS`, R rows of sums (one for the plain score, one per resample).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLUMNS = (
    "questions",
    "answered",
    "answerable",
    "answered_answerable",
    "graded",  # questions that count as answered for correctness; `answered`, but for a quirk of trust_eval
    "correct_graded",  # sum of AC_q over the graded questions
    "correct",  # sum of AC_q over all questions; the same, but for that quirk
    "cited",  # questions that recall and precision are averaged over: answered ones (trust_eval: with a statement)
    "recall",
    "precision",  # by the protocol's rule for unneeded citations
    "precision_strict",  # an unneeded citation never counts
    "precision_shared",  # an unneeded citation counts when it shares a supported answer with the others
    "reasoned",
    "aligned",  # the reasoning entails the answer (%Align, equation 8)
)


def scores(sums_RK: Floats) -> Mapping[str, Floats]:
    """Every metric in percent for each row of sums: [R, K] -> {name: [R]}. A share of nothing is 0."""
    s = dict(zip(COLUMNS, np.atleast_2d(sums_RK).T, strict=True))
    n, refused, unanswerable = s["questions"], s["questions"] - s["answered"], s["questions"] - s["answerable"]
    refused_unanswerable = refused - (s["answerable"] - s["answered_answerable"])
    out = {
        "answered_ratio": percent(s["answered"], n),
        "refusal_precision": percent(refused_unanswerable, refused),
        "refusal_recall": percent(refused_unanswerable, unanswerable),
        "answer_precision": percent(s["answered_answerable"], s["answered"]),
        "answer_recall": percent(s["answered_answerable"], s["answerable"]),
        "over_refusal": percent(s["answerable"] - s["answered_answerable"], s["answerable"]),
        "over_answer": percent(unanswerable - refused_unanswerable, unanswerable),
        "ac_precision": percent(s["correct_graded"], s["graded"]),
        "ac_recall": percent(s["correct"], s["answerable"]),
        "citation_recall": percent(s["recall"], s["cited"]),
        "citation_precision": percent(s["precision"], s["cited"]),
        "citation_precision_strict": percent(s["precision_strict"], s["cited"]),
        "citation_precision_shared": percent(s["precision_shared"], s["cited"]),
    }
    out["f1_refusal"] = _f1(out["refusal_precision"], out["refusal_recall"])
    out["f1_answer"] = _f1(out["answer_precision"], out["answer_recall"])
    out["f1_gr"] = (out["f1_refusal"] + out["f1_answer"]) / 2
    out["f1_ac"] = _f1(out["ac_precision"], out["ac_recall"])
    out["f1_gc"] = _f1(out["citation_recall"], out["citation_precision"])
    out["trust_score"] = (out["f1_gr"] + out["f1_ac"] + out["f1_gc"]) / 3
    if s["reasoned"].any():
        out["align"] = percent(s["aligned"], s["reasoned"])
    return out


def confusion(sums_IK: Floats) -> dict[str, int]:
    """The refusal confusion matrix, as counts of questions."""
    s = dict(zip(COLUMNS, sums_IK.sum(0).round().astype(int).tolist(), strict=True))
    answered, answerable, both = s["answered"], s["answerable"], s["answered_answerable"]
    return {
        "answerable_answered": both,
        "answerable_refused": answerable - both,
        "unanswerable_answered": answered - both,
        "unanswerable_refused": s["questions"] - answerable - answered + both,
    }


def ceiling(questions: int, answerable: int) -> float:
    """The Trust-Score, in percent, of a system that answers and cites right where it can, and refuses the rest.

    Below 100 where all questions are answerable, or none: an F1 of no questions is 0.

    >>> ceiling(10, 4), round(ceiling(10, 10), 2), round(ceiling(10, 0), 2)
    (100.0, 83.33, 16.67)
    """
    counts = dict.fromkeys(COLUMNS[1:], float(answerable)) | {
        "questions": float(questions),
        "reasoned": 0.0,
        "aligned": 0.0,
    }
    return float(scores(np.array([[counts[name] for name in COLUMNS]]))["trust_score"][0])


def percent(part: Floats, whole: Floats) -> Floats:
    """100 * part / whole, elementwise; 0 where whole is 0."""
    return 100 * np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _f1(a: Floats, b: Floats) -> Floats:
    return np.divide(2 * a * b, a + b, out=np.zeros_like(a), where=a + b > 0)
