"""The judges that compare words: the stub of the golden Trust-Score cases, and the offline default."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.data.example import Passage
from grpo.data.text import STOP_WORDS, normalize
from grpo.errors import UserError
from rewards.judges.base import premise
from rewards.judges.lexical import LexicalJudge, TokenSubsetJudge
from rewards.judges.load import load_judge

DAEI = Passage(title="Ali Daei", text="Ali Daei scored 109 international goals.")
BICAN = Passage(title="Josef Bican", text="He scored 805 career goals.")


@pytest.mark.parametrize(
    ("passages", "hypothesis", "expected"),
    [
        ((DAEI,), "Ali Daei scored 109 international goals.", 1.0),
        (
            (DAEI,),
            "By the 109 goals, it was DAEI!",
            1.0,
        ),  # order, case, punctuation, articles and stop words do not matter
        ((DAEI,), "Ali Daei scored 110 goals.", 0.0),
        ((DAEI,), "Ali Daei scored 10 goals.", 0.0),  # tokens, not substrings
        ((DAEI,), "Josef Bican scored 805 goals.", 0.0),
        ((BICAN,), "Josef Bican scored 805 goals.", 1.0),  # the title counts
        ((DAEI,), "Daei and Bican scored goals.", 0.0),
        ((DAEI, BICAN), "Daei and Bican scored goals.", 1.0),  # joined, though neither does alone
        ((DAEI,), "He scored goals.", 0.0),  # a pronoun is a content token
        ((), "Goals.", 0.0),
        ((DAEI,), "It was that which is.", 1.0),  # stop words alone: trivially, as the stub has it
        ((), "", 1.0),
    ],
)
def test_token_subset(passages: tuple[Passage, ...], hypothesis: str, expected: float) -> None:
    assert TokenSubsetJudge().entails([(premise(passages), hypothesis)]) == [expected]


MILL = Passage(
    title="Halden Mill",
    text="Halden Mill stands on the river Orra. In 1846 two millers from Port Alder built the old mill.",
)


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        ("Two millers were building the mill in 1846.", 1.0),  # inflections are one word
        ("Two brave millers from Port Alder built the old mill in 1846.", 1.0),  # 7 of 8 content words
        ("Two brave clever millers built a big mill.", 0.5),  # 4 of 7: unclear
        ("Brave clever millers painted big barns.", 0.0),  # 1 of 6
        ("In 1847 two millers from Port Alder built the old mill.", 0.0),  # every number
        ("In 1846 two millers from Port Varn built the old mill.", 0.0),  # every name
        ("Mara Fenwick and two millers from Port Alder built the old mill by the river.", 0.0),  # at its start too
        ("Millers from Port Alder built it in 1846.", 1.0),  # but not a single capital that only begins the sentence
        ("The old mill never stands.", 0.0),  # a negation that the passage lacks
        ("It was that which is.", 0.0),  # function words must stand there as they are
        ("on the river", 1.0),
    ],
)
def test_lexical(hypothesis: str, expected: float) -> None:
    assert LexicalJudge().entails([(premise([MILL]), hypothesis)]) == [expected]


@pytest.mark.parametrize(
    ("passage", "hypothesis", "expected"),
    [
        ("北京是中国的首都。", "中国的首都是北京", 1.0),
        ("北京是中国的首都。", "上海是中国的首都", 0.0),
        ("東京タワーは高い。", "大阪タワーは高い。", 0.0),
        ("서울은 한국의 수도이다.", "부산은 한국의 수도이다.", 0.0),
        ("กรุงเทพเป็นเมืองหลวงของไทย", "เชียงใหม่เป็นเมืองหลวงของลาว", 0.5),
        ("กรุงเทพเป็นเมืองหลวงของไทย", "กรุงเทพเป็นเมืองหลวง", 1.0),
    ],
)
def test_lexical_in_other_scripts(passage: str, hypothesis: str, expected: float) -> None:
    assert LexicalJudge().entails([(passage, hypothesis)]) == [expected]


def test_a_batch_keeps_its_order() -> None:
    text = premise((DAEI,))
    assert LexicalJudge().entails([(text, "109"), (text, "805"), ("805", "805"), (text, "109")]) == [1.0, 0.0, 1.0, 1.0]
    assert LexicalJudge().entails([]) == []
    assert isinstance(load_judge("token_subset"), TokenSubsetJudge)


def test_the_stop_list_is_the_stub_of_the_golden_cases() -> None:
    assert len(STOP_WORDS) == 21
    assert {"and", "who", "were", "its"} <= STOP_WORDS
    assert "he" not in STOP_WORDS


def test_premise_is_the_fields_document_text() -> None:
    assert premise((DAEI, BICAN)) == (
        "Title: Ali Daei\nAli Daei scored 109 international goals.\nTitle: Josef Bican\nHe scored 805 career goals."
    )


def test_an_unknown_judge_is_refused_with_the_valid_ones() -> None:
    assert isinstance(load_judge("lexical"), LexicalJudge)
    with pytest.raises(UserError, match=r"unknown judge 'lexcal'; valid: .*lexical"):
        load_judge("lexcal")


@settings(max_examples=200, deadline=None)
@given(st.text("aThe .\n\r\x0b\u2028x1'-_\x00–é²\u0301"), st.text("aThe .\n\rx1–é"))
def test_reading_line_by_line_changes_nothing(text: str, hypothesis: str) -> None:
    expected = set(normalize(hypothesis).split()) - STOP_WORDS <= set(normalize(text).split())
    assert TokenSubsetJudge().entails([(text, hypothesis)]) == [float(expected)]
