"""RewardScorer: the 14 worked cases of Ground-GRPO, the paper's sums, weights, and the rounds of questions."""

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.data.text import REFUSAL, REFUSALS
from rewards.answer import parse
from rewards.config import RewardConfig
from rewards.judges.lexical import LexicalJudge
from rewards.scorer import ParsedGroup, RewardScorer, rewardable_statements
from tests.helpers.scoring import BICAN, DAEI, group, question, reasoned, score

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


def test_what_may_be_rewarded_is_found_once_for_a_group() -> None:
    answers = [parse(text, style="prose", reasoning=False) for text in (RIGHT, REFUSAL, "")]
    about = {"example": question(), "answers": answers, "refusals": REFUSALS}
    asked = ParsedGroup(**about, rewardable=rewardable_statements(question(), answers))
    assert asked.rewardable is asked.rewardable
    assert [[statement.cites for statement in row] for row in asked.rewardable] == [[(1,)], [], []]
    assert rewardable_statements(question(answerable=False), answers) == [(), (), ()]


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
    "A pitch of 1938 [3].": (0.0, 0.0), "A 38 m pitch [3].": (0.5, -0.5), "The Who [3].": (0.5, -0.5),
    "A whole pitch.": (0.0, 0.0), "The Who [3][9].": (0.5, -0.5),
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(PAID)), max_size=9), st.booleans())
def test_the_papers_sum_is_the_sum_over_statements(statements: list[str], anti_gaming: bool) -> None:
    """Eqs 1 and 2 without bound or factor, whatever the other statements and whatever `anti_gaming` is."""
    example = question(answers=(("Ali Daei",), ("Josef Bican",), ("38",), ("The Who",)))
    example = dataclasses.replace(example, found=((True,) * 4,) * 3)
    scored = score(reasoned(" ".join(["It won.", *statements])), example, uncapped_sum=True, anti_gaming=anti_gaming)
    assert scored.parts["exact_match"] == sum(PAID[s][0] for s in statements)
    assert scored.parts["citation"] == sum(PAID[s][1] for s in statements)


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


def test_the_details_say_why() -> None:
    why = score(reasoned(f"{DAEI} [1]. {BICAN} [3]. It won [2]."), question()).details
    assert (why["refused"], why["flaws"], why["length_factor"]) == (False, [], 1.0)
    assert why["statements"] == [
        {"text": f"{DAEI}.", "cites": [1], "answers": ["Ali Daei"], "share": 1.0, "supported": 1.0},
        {"text": f"{BICAN}.", "cites": [3], "answers": ["Josef Bican"], "share": 1.0, "supported": 0.0},
        {"text": "It won.", "cites": [2], "answers": [], "share": 0.0, "supported": None},
    ]
    assert score("<answer>", question()).details["flaws"][:1] == ["missing <think>"]


def test_weights_scale_the_total_and_not_the_parts() -> None:
    weighted = score(reasoned(RIGHT), weights={"citation": 3.0, "format": 0.0})
    assert weighted.parts == score(reasoned(RIGHT)).parts
    assert weighted.total == 1 + 0.5 + 0.5 + 3 * 0.5
