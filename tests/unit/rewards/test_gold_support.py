"""The warning of a judge that does not support the data's own gold statements."""

from rewards.judges.gold_support import gold_pairs, judge_warning
from rewards.judges.lexical import LexicalJudge
from tests.helpers.scoring import DAEI, question

PARAPHRASE = "The record of the Iranian stands at one hundred and nine"


def test_statements_are_asked_of_what_they_cite_and_claims_of_the_passages_that_hold_them() -> None:
    cited = gold_pairs(question(), f"{DAEI} [1][2]. It won. Never [9].")
    assert [said for _, said in cited] == [f"{DAEI}."]
    assert cited[0][0].count("Title: ") == 2
    claim = question(style="claims", answers=((PARAPHRASE,),))
    assert gold_pairs(claim, "") == [("Title: Ali Daei\nAli Daei scored 109 goals.", PARAPHRASE)]


def test_a_judge_below_one_half_is_named_with_a_better_one() -> None:
    golds = [(question(), f"{DAEI} [1]."), (question(), f"{PARAPHRASE} [1].")]
    assert judge_warning(LexicalJudge(), "lexical", golds) is None  # 1 of 2
    warning = judge_warning(LexicalJudge(), "lexical", [*golds, (question(), f"{PARAPHRASE} today [1].")])
    assert warning is not None
    assert warning.startswith("judge lexical: supports 1 of 3 gold statements")
    assert "reward.judge=" in warning
    assert "\n" not in warning
    assert judge_warning(LexicalJudge(), "lexical", []) is None
