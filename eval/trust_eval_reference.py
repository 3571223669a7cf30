"""The metrics of declare-lab's trust_eval 0.1.6 under its own names, to check published tables row by row.

`python -m eval.score --reference` writes them beside ours, from answers read by `TrustEvalProtocol`.
"""

from collections.abc import Callable, Sequence

from eval.answer_scores import AnswerScores, ScoredAnswers, f1, list_precision
from eval.trust_score import scores
from grpo.data.text import normalize

Some = Sequence[AnswerScores]
Value = Callable[[AnswerScores], float]


def trust_eval_metrics(scored: ScoredAnswers) -> dict[str, float]:
    """Every metric of trust_eval; the share of wrong list entries is left out where there are none."""
    judged = scored.answers
    style = judged[0].example.style
    ours = {name: float(values[0]) for name, values in scores(scored.sums_IK.sum(0)).items()}
    answered = [one for one in judged if not one.refused]
    answerable = [one for one in judged if one.example.answerable]
    numbers = {
        "num_samples": float(len(judged)),
        "answered_ratio": round(ours["answered_ratio"], 2),  # trust_eval rounds this one metric
        "answered_num": float(len(answered)),
        "answerable_num": float(len(answerable)),
        "overlapped_num": float(sum(one.example.answerable for one in answered)),
        "regular_length": _mean(judged, lambda one: len(one.bare.split())),
        "answered_length": _mean(answered, lambda one: len(one.bare.split())),
        "refuse_rec": ours["refusal_recall"],
        "refuse_prec": ours["refusal_precision"],
        "refuse_f1": ours["f1_refusal"],
        "answerable_rec": ours["answer_recall"],
        "answerable_prec": ours["answer_precision"],
        "answerable_f1": ours["f1_answer"],
        "macro_avg": (ours["refusal_recall"] + ours["answer_recall"]) / 2,
        "macro_f1": ours["f1_gr"],
    }
    numbers |= {"prose": _exact_match, "list": _lists, "claims": _claims}[style](judged, answered, answerable)
    said = [one for one in judged if one.statements]
    regular = 100 * _mean(said, lambda one: one.recall), 100 * _mean(said, lambda one: one.precision)
    numbers |= {
        "regular_citation_rec": regular[0],
        "regular_citation_prec": regular[1],
        "regular_citation_f1": f1(*regular),
        "answered_citation_rec": ours["citation_recall"],
        "answered_citation_prec": ours["citation_precision"],
        "answered_citation_f1": ours["f1_gc"],
        "trust_score": ours["trust_score"],
    }
    return numbers


def _exact_match(judged: Some, answered: Some, answerable: Some) -> dict[str, float]:
    """ASQA: the share of gold answers found in the text."""
    return _recalls(judged, answered, answerable, "str_em", parametric="parametric_str_em")


def _claims(judged: Some, answered: Some, answerable: Some) -> dict[str, float]:
    """ELI5: the share of claims that the text entails. trust_eval tests for a refusal without citation marks here."""
    given = [one for one in judged if not one.refused_bare]
    return _recalls(judged, given, answerable, "claims_nli", parametric="parametric_answered_claims_nli")


def _recalls(judged: Some, answered: Some, answerable: Some, name: str, *, parametric: str) -> dict[str, float]:
    p, r = 100 * _mean(answered, _supported_recall), 100 * _mean(answerable, _supported_recall)
    return {
        f"regular_{name}": 100 * _mean(judged, _recall),
        f"answered_{name}": 100 * _mean(answered, _recall),
        f"calib_answered_{name}": p,
        f"calib_answerable_{name}": r,
        f"calib_{name}_f1": f1(p, r),
        parametric: 100 * (_mean(answered, _recall) - _mean(answered, _parametric)),
    }


def _lists(judged: Some, answered: Some, answerable: Some) -> dict[str, float]:
    """QAMPARI: entries that equal a gold answer; `calib` counts only what the passages hold, 0 for the rest."""

    def row(ones: Some, prefix: str, *, calib: bool) -> dict[str, float]:
        values: dict[str, Value] = {
            "num_preds": lambda one: len(one.items) / 100,
            "qampari_prec": lambda one: _list_scores(one, calib)[0],
            "qampari_rec": lambda one: _list_scores(one, calib)[1],
            "qampari_rec_top5": lambda one: _list_scores(one, calib)[2],
            "qampari_f1": lambda one: f1(*_list_scores(one, calib)[:2]),
            "qampari_f1_top5": lambda one: f1(_list_scores(one, calib)[0], _list_scores(one, calib)[2]),
        }
        return {prefix + name: 100 * _mean(ones, value) for name, value in values.items()}

    numbers = (
        row(judged, "regular_", calib=False)
        | row(answered, "answered_", calib=False)
        | row(answered, "calib_answered_", calib=True)
        | row(answerable, "calib_answerable_", calib=True)
        | _wrong_entries(answered)
    )
    numbers["calib_qampari_em_f1"] = f1(
        numbers["calib_answered_qampari_f1_top5"], numbers["calib_answerable_qampari_f1_top5"]
    )
    parametric = _mean(answered, lambda one: min(5.0, _supported_hits(one)) / min(5, max(len(one.hits), 1)))
    numbers["parametric_qampari_rec_top5"] = numbers["answered_qampari_rec_top5"] - 100 * parametric
    return numbers


def _list_scores(one: AnswerScores, calib: bool) -> tuple[float, float, float]:
    """(precision, recall, recall of at most five)."""
    answers = one.example.answerable_indices if calib else range(len(one.hits))
    if not answers or (calib and one.refused_bare):
        return 0.0, 0.0, 0.0
    said = sum(one.hits[a] for a in answers)
    return list_precision(one, answers), said / len(answers), min(5.0, said) / min(5, len(answers))


def _wrong_entries(answered: Some) -> dict[str, float]:
    """The shares of wrong list entries that some passage contains, and that no passage contains."""
    if not answered:
        return {"qampari_presence": 0.0, "qampari_absence": 0.0}
    shares = []
    for one in answered:
        example = one.example
        golds = [example.answers[a] for a in example.answerable_indices]
        entries = [piece.strip() for piece in one.bare.rstrip().rstrip(".").rstrip(",").split(",")]
        wrong = [e for e in entries if e and not any(_contains(e, gold) for gold in golds)]
        if wrong:
            there = [any(_contains(passage.text, (entry,)) for passage in example.passages) for entry in wrong]
            shares.append(sum(there) / len(there))
    if not shares:
        return {}
    presence = 100 * sum(shares) / len(shares)
    return {"qampari_presence": presence, "qampari_absence": 100 - presence}


def _contains(text: str, spellings: Sequence[str]) -> bool:
    body = normalize(text)
    return any(normalize(spelling) in body for spelling in spellings)


def _supported_hits(one: AnswerScores) -> float:
    """The number of answers held by the passages that the text contains; 0 in a refusal."""
    return 0.0 if one.refused_bare else sum(one.hits[a] for a in one.example.answerable_indices)


def _recall(one: AnswerScores) -> float:
    return sum(one.hits) / max(len(one.hits), 1)


def _supported_recall(one: AnswerScores) -> float:
    return _supported_hits(one) / max(len(one.example.answerable_indices), 1)


def _parametric(one: AnswerScores) -> float:
    return _supported_hits(one) / max(len(one.hits), 1)


def _mean(ones: Some, value: Value) -> float:
    return sum(value(one) for one in ones) / len(ones) if ones else 0.0
