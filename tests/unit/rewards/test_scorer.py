"""Ground-GRPO's rewards: the worked cases of eqs 1-6 and Algorithm 1, the holes that they leave, and the bounds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.data.example import Example, Passage, Style
from grpo.data.text import REFUSAL
from grpo.types import Score
from rewards.config import RewardConfig
from rewards.judges.base import LexicalJudge
from rewards.scorer import RewardScorer
from tests.helpers.scoring import group, scores

TEXTS = ("Ali Daei scored 109 goals.", "Josef Bican scored 805 goals.", "A pitch has grass.")
TITLES = ("Ali Daei", "Josef Bican", "Pitch")
PASSAGES = tuple(Passage(title=title, text=text) for title, text in zip(TITLES, TEXTS, strict=True))
DAEI, BICAN = "Ali Daei scored 109 goals", "Josef Bican scored 805 goals"


def question(*, answerable: bool = True, style: Style = "prose", answers: tuple[tuple[str, ...], ...] = ()) -> Example:
    gold = answers or (("Ali Daei", "Daei"), ("Josef Bican",))
    found = tuple(tuple(answerable and a == p for a in range(len(gold))) for p in range(len(PASSAGES)))
    return Example(id="q", question="Who?", passages=PASSAGES, answers=gold, found=found, style=style, source="test")


def reasoned(answer: str) -> str:
    return f"<think>Perhaps [3].</think>\n<answer>{answer}</answer>"


def score(
    text: str, example: Example | None = None, *, cut: bool = False, reasoning: bool = True, **changes: Any
) -> Score:
    scorer = RewardScorer(RewardConfig.model_validate({"refusal": True} | changes), reasoning=reasoning)
    return scores(scorer, example or question(), [text], cut=cut)[0]


def total(answer: str, example: Example | None = None, *, uncapped_sum: bool = False) -> float:
    return score(reasoned(answer), example, uncapped_sum=uncapped_sum).total


RIGHT, WRONG_ORDER = f"{DAEI} [1].", f"<answer>{DAEI} [1].</answer><think>a</think>"
SORRY = "I'm sorry, but I couldn't find an answer to your question in the search results."
COULD_NOT = "I apologize, but I could not find an answer to your question."
CASES = [  # case, text, answerable, bad-citation penalty, tag, format, refusal, EM, citation, stage 2, stage 1
    ("1", f"<think>a</think><answer>{RIGHT}", True, 0.5, 0.75, 0, 0, 0, 0, 0.75, 0.75),
    ("2", WRONG_ORDER, True, 0.5, 1, 0, 0, 0, 0, 1.0, 1.0),
    ("3", reasoned(f"{DAEI} [1]. {BICAN} [2]."), True, 0.5, 1, 1, 0.5, 1.0, 1.0, 4.5, 4.0),
    ("4", reasoned(f"{DAEI} [1]. {BICAN} [3]."), True, 0.5, 1, 1, 0.5, 1.0, 0.0, 3.5, 3.0),
    ("5", reasoned(RIGHT), True, 0.5, 1, 1, 0.5, 0.5, 0.5, 3.5, 3.0),
    ("6", reasoned(f"{DAEI} [2]."), True, 0.5, 1, 1, 0.5, 0.5, -0.5, 2.5, 2.0),
    ("6b", reasoned(f"{DAEI} [2]."), True, 0.0, 1, 1, 0.5, 0.5, 0, 3.0, 2.5),
    ("7", reasoned(f"{DAEI}."), True, 0.5, 1, 1, 0.5, 0.5, 0, 3.0, 2.5),
    ("8", reasoned("A pitch has grass [3]."), True, 0.5, 1, 1, 0.5, 0, 0, 2.5, 2.0),
    ("9", reasoned(REFUSAL), True, 0.5, 1, 1, 0, 0, 0, 2.0, 2.0),
    ("10", reasoned(REFUSAL), False, 0.5, 1, 1, 1.0, 0, 0, 3.0, 2.0),
    ("11", reasoned(COULD_NOT), False, 0.5, 1, 1, 0.9459, 0, 0, 2.9459, 2.0),
    ("12", reasoned(RIGHT), False, 0.5, 1, 1, 0, 0, 0, 2.0, 2.0),
    ("13", reasoned(SORRY), False, 0.5, 1, 1, 0, 0, 0, 2.0, 2.0),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_the_worked_cases(case: tuple[str, str, bool, float, float, float, float, float, float, float, float]) -> None:
    _, text, answerable, penalty, tag, form, refusal, match, cite, stage2, stage1 = case
    parts = {"tag_count": tag, "format": form, "exact_match": match, "citation": cite, "refusal": refusal}
    for uncapped_sum, anti_gaming in ((False, True), (True, True), (True, False)):
        changes = {"citation_penalty": penalty, "uncapped_sum": uncapped_sum, "anti_gaming": anti_gaming}
        second = score(text, question(answerable=answerable), **changes)
        assert second.parts == pytest.approx(parts, abs=1e-4)
        assert second.total == pytest.approx(stage2, abs=1e-4)
        first = score(text, question(answerable=answerable), refusal=False, **changes)
        assert "refusal" not in first.parts
        assert first.total == pytest.approx(stage1, abs=1e-4)


def test_all_worked_cases_are_here() -> None:
    assert [case[0] for case in CASES] == ["1", "2", "3", "4", "5", "6", "6b", *map(str, range(7, 14))]


PAID = {  # by hand: (eq 1, eq 2) of a statement; the gold answers are Daei, Bican, "38" and "The Who"
    f"{DAEI}.": (0.5, 0.0), f"{DAEI} [1].": (0.5, 0.5), f"{DAEI} [2].": (0.5, -0.5), f"{DAEI} [1][2].": (0.5, 0.5),
    f"{BICAN}.": (0.5, 0.0), f"{BICAN} [1].": (0.5, -0.5), f"{BICAN} [1][2].": (0.5, 0.5),
    "Grass grew [3].": (0.0, 0.0),
    "A pitch of 1938 [3].": (0.5, -0.5), "A pitch of 1938 has grass.": (0.5, 0.0), "The Who [3].": (0.5, 0.5),
    "A whole pitch.": (0.5, 0.0), "The Who [3][9].": (0.5, -0.5),
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(PAID)), max_size=9), st.booleans())
def test_the_papers_sum_is_the_sum_over_statements(statements: list[str], anti_gaming: bool) -> None:
    """Eqs 1 and 2: no bound, no share, no word looked at twice, whatever else is said and whatever is anti_gaming."""
    example = question(answers=(("Ali Daei",), ("Josef Bican",), ("38",), ("The Who",)))
    example = dataclasses.replace(example, found=((True,) * 4,) * 3)
    scored = score(reasoned(" ".join(["It won.", *statements])), example, uncapped_sum=True, anti_gaming=anti_gaming)
    assert scored.parts["exact_match"] == sum(PAID[s][0] for s in statements)
    assert scored.parts["citation"] == sum(PAID[s][1] for s in statements)


def test_refusing_and_then_answering_is_a_refusal_in_both_stages() -> None:
    hedged = reasoned(f"{REFUSAL} {DAEI} [1].")
    assert score(hedged).total == 2.0
    assert score(hedged, refusal=False).total == 2.0
    assert score(hedged, question(answerable=False)).total == 2.5
    assert score(hedged, question(answerable=False), uncapped_sum=True).total == 2.5
    assert score(hedged, question(answerable=False), anti_gaming=False).total == 3.0


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (REFUSAL, 1.0),
        (f"{REFUSAL} The documents do not contain it.", 1.0),
        ("I apologize, but I couldn't find an answer in the provided passages.", 1.0),
        (f"{REFUSAL} [1]", 0.5),
        (f"{REFUSAL[:-1]}, but it was Daei.", 0.5),
        (f"Daei. {REFUSAL}", 0.5),
        ("I apologize, but I couldn't find an answer, Ali Daei", 0.5),
    ],
)
@pytest.mark.parametrize("style", ["prose", "list"])
def test_a_refusal_that_says_more_is_paid_half(text: str, refusal: float, style: Style) -> None:
    example = question(answerable=False, style=style)
    assert score(text, example, reasoning=False).parts["refusal"] == refusal
    assert score(text, example, reasoning=False, anti_gaming=False).parts["refusal"] == 1.0
    assert score(text, question(style=style), reasoning=False).parts["refusal"] == 0.0


def test_a_typographic_apostrophe_makes_no_hedge() -> None:
    curly = score(REFUSAL.replace("'", "’"), question(answerable=False), reasoning=False)
    assert curly.parts["refusal"] == pytest.approx(36 / 37)  # the metric's comparison sees the sign


@pytest.mark.parametrize("text", [RIGHT, f"{DAEI} [2].", REFUSAL])
def test_plain_totals_are_those_of_the_reasoning_format(text: str) -> None:
    assert score(text, reasoning=False) == score(reasoned(text), reasoning=True)


def test_malformed_plain_answers() -> None:
    assert score(reasoned(RIGHT), reasoning=False).total == 0.0
    assert score(f"{DAEI} [1]. </think>", reasoning=False).total == 0.75
    assert score("  ", reasoning=False).total == 1.0


def test_a_cut_completion_is_not_well_formed() -> None:
    assert score(reasoned(RIGHT), cut=True).total == 1.0
    assert score(RIGHT, cut=True, reasoning=False).total == 1.0


@pytest.mark.parametrize("times", [1, 2, 7])
def test_repeating_a_right_sentence_pays_once(times: int) -> None:
    repeated = " ".join([f"{DAEI} [1]."] * times)
    assert total(repeated) == 3.5
    assert total(repeated, uncapped_sum=True) == 2.5 + times
    both = " ".join([f"{DAEI} and {BICAN} [1][2]."] * times)
    assert total(both) == 3.5
    assert total(both, uncapped_sum=True) == 2.5 + times


def test_the_first_mention_counts_not_the_best() -> None:
    tries = " ".join(f"{DAEI} [{n}]." for n in (3, 2, 1))
    assert total(tries) == 2.5
    assert total(tries, uncapped_sum=True) == 3.5  # 2.5 + 3 * .5 - .5 - .5 + .5


def test_only_answers_that_the_passages_support_are_paid() -> None:
    found = ((False, False), (False, True), (False, False))
    partly = dataclasses.replace(question(), found=found)  # no passage is said to hold Daei
    assert score(reasoned(f"{DAEI} [1]."), partly).parts["exact_match"] == 0.0
    assert score(reasoned(f"{BICAN} [2]."), partly).parts["exact_match"] == 0.5


@pytest.mark.parametrize(("alias", "said", "match"), [("The 109!", "109 goals.", 0.5), ("the", "The.  Goals.", 0.0)])
def test_spellings_are_normalized_and_blank_ones_never_match(alias: str, said: str, match: float) -> None:
    example = question(answers=((alias,),))
    assert score(reasoned(said), example).parts["exact_match"] == match


def test_lists_are_judged_item_by_item() -> None:
    items = score(reasoned("Ali Daei [1], Josef Bican [1], Grass [3]."), question(style="list"))
    assert items.parts["exact_match"] == 1.0
    assert items.parts["citation"] == 0.0
    assert total("Ali Daei [1], Josef Bican [2], Grass [1].", question(style="list")) == 4.5


def test_a_claim_is_said_by_a_sentence_that_entails_it() -> None:
    claim = (("Goals were scored by Ali Daei.", "Daei had 109 goals."),)
    assert score(reasoned(RIGHT), question(style="claims", answers=claim)).parts["exact_match"] == 0.5
    assert score(reasoned(RIGHT), question(style="prose", answers=claim)).parts["exact_match"] == 0.0
    assert score(reasoned(f"{BICAN} [2]."), question(style="claims", answers=claim)).parts["exact_match"] == 0.0


def test_a_closed_question_pays_for_any_gold_answer() -> None:
    closed = Example(id="c", question="?", passages=(), answers=(("109",),), found=(), style="closed", source="test")
    assert score(reasoned("109."), closed).parts["exact_match"] == 0.5
    assert score(reasoned("109 [1]."), closed).parts["citation"] == -0.5


GOOD, BAD = ("[1]", "[1][1]"), ("[2]", "[2][3]", "[0]", "[4]", "[1][4]")
MARKS = [("", 0.0), *((marks, 0.5) for marks in GOOD), *((marks, -0.5) for marks in BAD)]


@pytest.mark.parametrize(("marks", "cite"), MARKS)
def test_citation(marks: str, cite: float) -> None:
    for answer in (f"{DAEI} {marks}.", f"{DAEI}. {marks}"):
        assert score(reasoned(answer)).parts["citation"] == cite


@pytest.mark.parametrize(("marks", "cite"), [("[1][2]", 0.25), ("[3][2][1]", 0.5 / 3), ("[1][2][1]", 0.25)])
def test_needless_citations_share_the_reward(marks: str, cite: float) -> None:
    assert score(reasoned(f"{DAEI} {marks}.")).parts["citation"] == pytest.approx(cite)
    for changes in ({"anti_gaming": False}, {"uncapped_sum": True}):
        assert score(reasoned(f"{DAEI} {marks}."), **changes).parts["citation"] == 0.5


def test_two_passages_that_both_support_a_statement_are_both_needed() -> None:
    twice = dataclasses.replace(question(), passages=(PASSAGES[0], PASSAGES[0], PASSAGES[1]))
    assert score(reasoned(f"{DAEI} [1][2]."), twice).parts["citation"] == 0.5
    assert score(reasoned(f"{DAEI} [1][2][3]."), twice).parts["citation"] == pytest.approx(0.5 * 2 / 3)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 6), min_size=1), st.integers(1, 3), st.booleans())
def test_one_more_right_citation_never_lowers_the_reward(cited: set[int], more: int, anti_gaming: bool) -> None:
    """Passages 1 to 3 hold the sentence, 4 to 6 do not, and 7 is not there."""
    six = dataclasses.replace(question(), passages=(PASSAGES[0],) * 3 + (PASSAGES[1],) * 3, found=((True, False),) * 6)

    def citation(numbers: set[int]) -> float:
        marks = "".join(f"[{n}]" for n in sorted(numbers))
        return score(reasoned(f"{DAEI} {marks}."), six, anti_gaming=anti_gaming).parts["citation"]

    assert -0.5 <= citation(cited) <= citation(cited | {more}) <= 0.5
    assert citation({*cited, 7}) == -0.5


def test_a_statement_of_stop_words_is_supported_only_where_it_stands() -> None:
    passages = (Passage(title="Rock", text="They heard The Who in 1969."), Passage(title="Grass", text="It grows."))
    band = dataclasses.replace(
        question(style="list", answers=(("The Who",),)), passages=passages, found=((True,), (False,))
    )
    assert [score(f"The Who [{n}]", band, reasoning=False).parts["citation"] for n in (1, 2)] == [0.5, -0.5]
    assert score("The Who [2]", band, reasoning=False, anti_gaming=False).parts["citation"] == 0.5
    whole = score("A whole other song [1]", band, reasoning=False)
    assert whole.parts["exact_match"] == 0.0
    assert score("A whole song [1]", band, reasoning=False, anti_gaming=False).parts["exact_match"] == 0.5


@pytest.mark.parametrize(
    ("said", "match"), [("In 1938.", 0.0), ("A 38-year-old.", 0.5), ("He is 38.", 0.5), ("38", 0.5), ("380", 0.0)]
)
def test_a_short_answer_must_be_a_whole_word(said: str, match: float) -> None:
    example = question(answers=(("38",),))
    assert score(reasoned(said), example).parts["exact_match"] == match
    assert score(reasoned(said), example, anti_gaming=False).parts["exact_match"] == 0.5


def test_padding_shrinks_what_right_statements_earn_and_never_a_penalty() -> None:
    padding = " ".join(f"Fact {word} is old [3]." for word in ("one", "two", "three", "four", "five", "six", "seven"))
    padded = score(reasoned(f"{DAEI} [1]. {padding}"))
    assert (padded.parts["exact_match"], padded.parts["citation"]) == (0.25, 0.25)  # (2 + 2) / 8 of 0.5
    assert score(reasoned(f"{DAEI} [2]. {padding}")).parts["citation"] == -0.5
    for changes in ({"uncapped_sum": True}, {"anti_gaming": False}):
        assert score(reasoned(f"{DAEI} [1]. {padding}"), **changes).total == 3.5


def test_one_endless_sentence_is_padding_too() -> None:
    words = " ".join(f"word{n}" for n in range(135))  # and the five of DAEI make 140
    endless = score(reasoned(f"{DAEI} {words}."))
    assert endless.parts["exact_match"] == 0.25  # (30 + 40) / 140 of 0.5
    assert (
        score(reasoned(f"{DAEI} and {BICAN} {words[: words.index('word129')]}.")).parts["exact_match"]
        == 0.5 * 100 / 140
    )
    ordinary = " ".join(f"word{n}" for n in range(65))
    assert score(reasoned(f"{DAEI} {ordinary}.")).parts["exact_match"] == 0.5
    for changes in ({"uncapped_sum": True}, {"anti_gaming": False}):
        assert score(reasoned(f"{DAEI} {words}."), **changes).parts["exact_match"] == 0.5


def test_a_claim_of_stop_words_is_said_by_nothing_else() -> None:
    claim = (("Who was it?",),)
    said = [score(reasoned("A pitch."), question(style="claims", answers=claim), anti_gaming=h) for h in (True, False)]
    assert [s.parts["exact_match"] for s in said] == [0.0, 0.5]
    assert score(reasoned("Who was it then"), question(style="claims", answers=claim)).parts["exact_match"] == 0.5


def test_passage_zero_is_not_the_last_one() -> None:
    grass = question(answers=(("109",), ("805",), ("grass",)))
    assert [score(reasoned(f"A pitch has grass [{n}]."), grass).parts["citation"] for n in (3, 0)] == [0.5, -0.5]


def test_two_passages_can_support_a_statement_together() -> None:
    both = "Ali Daei and Josef Bican scored goals"
    assert score(reasoned(f"{both} [1][2].")).parts["citation"] == 0.5
    assert score(reasoned(f"{both} [1].")).parts["citation"] == -0.5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([DAEI, BICAN, "A pitch has grass", "It won"]), min_size=1, max_size=6), st.data())
def test_bounds_and_a_better_citation_never_costs(sentences: list[str], data: st.DataObject) -> None:
    ranks = {"[3]": -1, "[9]": -1, "": 0, "right": 1}
    marks = [data.draw(st.sampled_from(sorted(ranks))) for _ in sentences]
    place = data.draw(st.integers(0, len(sentences) - 1))
    better = data.draw(st.sampled_from([mark for mark in ranks if ranks[mark] >= ranks[marks[place]]]))
    own = {DAEI: "[1]", BICAN: "[2]"}

    def written(chosen: Sequence[str]) -> str:
        pairs = zip(sentences, chosen, strict=True)
        return " ".join(f"{s} {own.get(s, '[3]') if mark == 'right' else mark}." for s, mark in pairs)

    improved = [better if n == place else mark for n, mark in enumerate(marks)]
    for uncapped_sum in (False, True):
        low = score(reasoned(written(marks)), uncapped_sum=uncapped_sum)
        high = score(reasoned(written(improved)), uncapped_sum=uncapped_sum)
        assert high.total >= low.total
        assert abs(low.parts["citation"]) <= low.parts["exact_match"]
    fair, paper = (score(reasoned(written(marks)), uncapped_sum=flag) for flag in (False, True))
    assert fair.parts["exact_match"] == 0.5 * len({DAEI, BICAN} & set(sentences)) <= paper.parts["exact_match"]
    assert 2.5 <= fair.total <= 4.5


@pytest.mark.parametrize("piece", ["I apologize", "an answer", "I", "Apolo", "find an answer"])
def test_a_piece_of_the_refusal_is_an_answer(piece: str) -> None:
    assert total(piece) == 2.5
    assert total(piece, question(answerable=False)) == 2.0


class Counting(LexicalJudge):
    """LexicalJudge, counting its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.calls.append(len(pairs))
        assert all(hypothesis.strip() for _, hypothesis in pairs)
        return super().entails(pairs)


def test_all_groups_are_asked_about_in_two_rounds_and_each_question_once() -> None:
    """Round 1 judges statements against claims, round 2 the citations of the credited statements."""
    claims = question(style="claims", answers=(("Goals were scored by Ali Daei.", "Daei had 109 goals."),))
    first = [RIGHT, RIGHT, f"{DAEI} [2].", f"{BICAN} [2].", f"{BICAN} [9].", REFUSAL, f"{DAEI}."]
    groups = [group(question(), [reasoned(text) for text in first]), group(claims, [reasoned(RIGHT)] * 3)]
    groups.append(group(question(answerable=False), [reasoned(REFUSAL)]))
    together, alone = Counting(), Counting()
    found = RewardScorer(RewardConfig(refusal=True), reasoning=True, judge=together)(groups)
    assert together.calls == [2, 3]  # the two spellings of the claim; three distinct citations
    assert [s.parts["citation"] for s in found[0]] == [0.5, 0.5, -0.5, 0.5, -0.5, 0.0, 0.0]
    scorer = RewardScorer(RewardConfig(refusal=True), reasoning=True, judge=alone)
    assert [scorer([each])[0] for each in groups] == found
    assert alone.calls == [3, 2, 1]


def test_weights_scale_the_total_and_not_the_parts() -> None:
    weighted = score(reasoned(RIGHT), weights={"citation": 3.0, "format": 0.0})
    assert weighted.parts == score(reasoned(RIGHT)).parts
    assert weighted.total == 1 + 0.5 + 0.5 + 3 * 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"weights": {"citaton": 1.0}},
            "no part 'citaton'; valid: tag_count, format, exact_match, citation, token_f1, fuzzy",
        ),
        ({"weights": {"refusal": 1.0}}, "needs refusal = true"),
        ({"weights": {"consistency": 1.0}}, r"no part 'consistency' \(it needs consistency = true\)"),
        ({"timeout": 0}, "greater than 0"),
        ({"failure_limit": 1.5}, "less than or equal to 1"),
        ({"weights": {"citation": float("nan")}}, "finite"),
        ({"citation_penalty": -0.5}, "greater than or equal to 0"),
        ({"penalty": 0.5}, "Extra inputs"),
        ({"judge": "nil"}, "unknown judge 'nil'; valid: .*lexical"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardScorer(RewardConfig.model_validate(wrong), reasoning=True)
