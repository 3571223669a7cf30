"""How grounded are these answers? Trust-Score (Trust-Align, arXiv 2409.11242; Ground-GRPO, appendix A).

    AR       share of questions answered, that is, not refused
    F1_GR    mean of the F1 of refusing and the F1 of answering                      (grounded refusals)
    F1_AC    harmonic mean of the answers' correctness per answered and per answerable question
             (a claim that no passage holds does not count)                          (answer correctness)
    F1_GC    harmonic mean of citation recall and precision over answered questions  (grounded citations)
    Trust    mean of F1_GR, F1_AC and F1_GC

Every number is a function of sums over questions (`COLUMNS`), which makes a bootstrap resample one product of matrices.
What each question adds to the sums is the business of `eval.judging`.

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
    "graded",  # questions whose answers count as given when correctness is graded: `answered`, but for a quirk
    "correct_graded",  # AC_q, summed over those
    "correct",  # AC_q, summed over all; the same, but for the same quirk
    "cited",  # what recall and precision are averaged over: answered questions (the field: with a statement)
    "recall",
    "precision",  # by the reading's own rule for unneeded citations
    "precision_strict",  # an unneeded citation never counts
    "precision_shared",  # an unneeded citation counts when it shares a supported answer with the others
    "reasoned",
    "aligned",  # reasoning that entails the answer (%Align, eq 8)
)


def scores(sums_RK: Floats) -> Mapping[str, Floats]:
    """Every number, in percent, for each row of sums: [R, K] -> {name: [R]}. A share of nothing is 0."""
    s = dict(zip(COLUMNS, np.atleast_2d(sums_RK).T, strict=True))
    n, refused, unanswerable = s["questions"], s["questions"] - s["answered"], s["questions"] - s["answerable"]
    refused_unanswerable = refused - (s["answerable"] - s["answered_answerable"])
    out = {
        "answered_ratio": _share_of(s["answered"], n),
        "refusal_precision": _share_of(refused_unanswerable, refused),
        "refusal_recall": _share_of(refused_unanswerable, unanswerable),
        "answer_precision": _share_of(s["answered_answerable"], s["answered"]),
        "answer_recall": _share_of(s["answered_answerable"], s["answerable"]),
        "over_refusal": _share_of(s["answerable"] - s["answered_answerable"], s["answerable"]),
        "over_answer": _share_of(unanswerable - refused_unanswerable, unanswerable),
        "ac_precision": _share_of(s["correct_graded"], s["graded"]),
        "ac_recall": _share_of(s["correct"], s["answerable"]),
        "citation_recall": _share_of(s["recall"], s["cited"]),
        "citation_precision": _share_of(s["precision"], s["cited"]),
        "citation_precision_strict": _share_of(s["precision_strict"], s["cited"]),
        "citation_precision_shared": _share_of(s["precision_shared"], s["cited"]),
    }
    out["f1_refusal"] = _f1(out["refusal_precision"], out["refusal_recall"])
    out["f1_answer"] = _f1(out["answer_precision"], out["answer_recall"])
    out["f1_gr"] = (out["f1_refusal"] + out["f1_answer"]) / 2
    out["f1_ac"] = _f1(out["ac_precision"], out["ac_recall"])
    out["f1_gc"] = _f1(out["citation_recall"], out["citation_precision"])
    out["trust_score"] = (out["f1_gr"] + out["f1_ac"] + out["f1_gc"]) / 3
    if s["reasoned"].any():
        out["align"] = _share_of(s["aligned"], s["reasoned"])
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


def _share_of(part: Floats, whole: Floats) -> Floats:
    return 100 * np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _f1(a: Floats, b: Floats) -> Floats:
    return np.divide(2 * a * b, a + b, out=np.zeros_like(a), where=a + b > 0)
