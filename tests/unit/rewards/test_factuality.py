"""Fact and caution: the worked groups of the slides, on real answers; token F1 and fuzzy containment."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.data.example import Example, Passage
from grpo.data.text import REFUSAL, REFUSALS
from rewards.answer import is_abstention, parse
from rewards.config import RewardConfig
from rewards.factuality import outcomes
from rewards.scorer import RewardScorer
from tests.helpers.scoring import scores

CLOSED: dict[str, Any] = {"id": "c", "question": "Who?", "style": "closed", "source": "test"}
DAEI = Example(**CLOSED, passages=(), found=(), answers=(("Ali Daei", "Daei"),))
LI = Example(**CLOSED, passages=(), found=(), answers=(("Li", "38"),))
ALL = RewardConfig(weights={"fact": 1.0, "caution": 1.0, "token_f1": 0.0, "fuzzy": 0.0})
RIGHT, WRONG, SILENT = "<think>a</think><answer>boxed[Ali Daei]</answer>", "Josef Bican", "boxed[Unknown]"
HALF = "<think>Ali Daei or Bican? I say Bican.</think><answer>boxed[Josef Bican]</answer>"


def outcome(example: Example, answer: str) -> str:
    return outcomes(example, [parse(answer, style=example.style, reasoning=False)], {}, REFUSALS)[0]


def reasoned(text: str) -> str:
    return text if text.startswith("<think>") else f"<think>hm</think><answer>{text}</answer>"


def parts(name: str, texts: list[str], example: Example = DAEI) -> list[float]:
    found = scores(RewardScorer(ALL, reasoning=True), example, [reasoned(text) for text in texts])
    return [score.parts[name] for score in found]


@pytest.mark.parametrize(
    ("texts", "fact", "caution"),
    [
        ([RIGHT, WRONG, SILENT, HALF, WRONG], [1, 0, 0, 0.5, 0], [0, 0, 0, 0, 0]),
        ([WRONG, SILENT, WRONG, WRONG, SILENT], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1]),
        ([WRONG] * 5, [0] * 5, [0] * 5),
        ([SILENT] * 5, [0] * 5, [1] * 5),
        ([HALF, SILENT, WRONG], [0, 0, 0], [0, 1, 0]),
        ([RIGHT] * 3, [1] * 3, [0] * 3),
    ],
)
def test_the_worked_groups(texts: list[str], fact: list[float], caution: list[float]) -> None:
    assert parts("fact", texts) == fact
    assert parts("caution", texts) == caution


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_a_group_changes_nothing(reverse: bool) -> None:
    texts = [WRONG, HALF, SILENT, RIGHT]
    expected = [0.0, 0.5, 0.0, 1.0]
    step = -1 if reverse else 1
    assert parts("fact", texts[::step]) == expected[::step]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("boxed[Ali Daei]", "right"),
        (r"So it is \boxed{Ali Daei}.", "right"),
        (r"\boxed{\text{Daei}}", "right"),
        ("boxed[Ali Daei [1]]", "right"),
        ("It was daei!", "right"),
        ("boxed[Ali Daei] no, boxed[Bican]", "process"),  # the last box is the answer, the rest is reasoning
        ("Ali Daei perhaps. boxed[Unknown]", "abstained"),
        (r"\boxed{\text{Unknown}}", "abstained"),
        ("Unknown", "abstained"),
        ("I don't know.", "abstained"),
        ("I don’t know.", "abstained"),
        ("N/A", "abstained"),
        ("boxed[n/a.]", "abstained"),
        ("Na", "wrong"),
        (REFUSAL.replace("'", "’"), "abstained"),
        (REFUSAL, "abstained"),
        (f"boxed[{REFUSAL}]", "abstained"),
        (f"{REFUSAL} Ali Daei.", "wrong"),  # both ways is neither
        ("I don't know, perhaps Bican", "wrong"),
        ("boxed[]", "wrong"),
        ("The Unknown Soldier", "wrong"),
    ],
)
def test_what_an_answer_is(answer: str, expected: str) -> None:
    assert outcome(DAEI, answer) == expected


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Li", True), ("Li Na", True), ("Oliver", False), ("38", True), ("1938", False), ("a 38-year-old", True)],
)
def test_a_short_alias_must_be_a_whole_word(answer: str, right: bool) -> None:
    assert (outcome(LI, answer) == "right") is right


@pytest.mark.parametrize("text", ["Unknown", "unknown.", "I do not know", "I'm not sure", "Sorry, I don't know that."])
def test_forms_of_not_knowing(text: str) -> None:
    assert is_abstention(text, REFUSALS)
    assert not is_abstention(f"{text} It may be Paris.", REFUSALS)


def test_a_closed_book_model_may_refuse_in_a_sentence_of_its_own() -> None:
    own = ("Das weiß ich leider nicht.",)
    scorer = RewardScorer(ALL, reasoning=False, refusals=own)
    texts = [own[0], f"{own[0]} Ali Daei.", REFUSAL]  # both ways is neither, and REFUSAL is no longer asked for
    assert [score.parts["caution"] for score in scores(scorer, DAEI, texts[:1] + texts[2:])] == [1, 0]
    assert [score.parts["fact"] for score in scores(scorer, DAEI, [*texts, "Ali Daei"])] == [0, 0, 0, 1]


def test_what_no_passage_holds_nobody_can_be_right_about() -> None:
    passages = (Passage(title="Grass", text="Grass grows."),)
    example = Example(
        id="u",
        question="Who?",
        passages=passages,
        answers=(("Ali Daei",),),
        found=((False,),),
        style="prose",
        source="t",
    )
    assert parts("fact", [RIGHT, REFUSAL], example) == [0.0, 0.0]
    assert parts("caution", [RIGHT, REFUSAL], example) == [0.0, 1.0]


def test_a_malformed_answer_is_wrong() -> None:
    assert parts("fact", ["<think>Daei</think>Daei", RIGHT]) == [0.0, 1.0]
    assert parts("caution", ["<think>x</think>Unknown", SILENT]) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "f1", "fuzzy"),
    [
        ("Ali Daei [1].", 1.0, 1.0),
        ("Ali Daei scored the 109 goals.", 4 / 7, 1.0),
        ("Ally Dayi", 0.0, 2 * 3 / 8),  # dayi and daei share d, a, i
        ("Da", 0.0, 2 * 2 / 6),
        ("Grass", 0.0, 2 * 1 / 7),  # gra and daei
        (REFUSAL, 0.0, 0.0),
    ],
)
def test_overlap_with_the_best_alias(answer: str, f1: float, fuzzy: float) -> None:
    assert parts("token_f1", [answer]) == pytest.approx([f1])
    assert parts("fuzzy", [answer]) == pytest.approx([fuzzy])


def test_extra_parts_are_computed_only_where_they_are_named() -> None:
    plain = scores(RewardScorer(RewardConfig(), reasoning=False), DAEI, ["Daei"])[0]
    assert set(plain.parts) == {"tag_count", "format", "exact_match", "citation"}
    watched = scores(RewardScorer(ALL.model_copy(update={"weights": {"fuzzy": 0.0}}), reasoning=False), DAEI, ["Daei"])[
        0
    ]
    assert set(watched.parts) == {*plain.parts, "fuzzy"}
    assert watched.total == plain.total
    paid = scores(RewardScorer(RewardConfig(weights={"token_f1": 2.0}), reasoning=False), DAEI, ["Daei"])[0]
    assert paid.total == plain.total + 2.0


PIECES = ("boxed[", "boxed{", "]", "}", "\\text{", "Unknown", "Daei", "li", " ", REFUSAL, "[1]", "<think>", "</think>")
TEXTS = st.one_of(
    st.text(), st.binary().map(lambda raw: raw.decode("latin-1")), st.lists(st.sampled_from(PIECES)).map("".join)
)
BOUNDS = {
    "tag_count": (0, 1), "format": (0, 1), "exact_match": (0, 1), "citation": (-1, 1), "refusal": (0, 1),
    "consistency": (0, 1), "token_f1": (0, 1), "fuzzy": (0, 1), "fact": (0, 1), "caution": (0, 1),
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_every_part_stays_within_its_bounds(texts: list[str], wrapped: bool, anti_gaming: bool) -> None:
    everything = RewardConfig(refusal=True, consistency=True, weights=ALL.weights, anti_gaming=anti_gaming)
    passages = (Passage(title="Ali Daei", text="Ali Daei scored 109 goals."), Passage(title="Li", text="Li won."))
    example = Example(
        id="q", question="Who?", passages=passages, answers=(("Ali Daei", "Daei"), ("Li",)),
        found=((True, False), (False, True)), style="prose", source="test",
    )  # fmt: skip
    written = [reasoned(text) if wrapped else text for text in texts]
    for score in scores(RewardScorer(everything, reasoning=True), example, written):
        assert set(score.parts) == set(BOUNDS)
        for name, (low, high) in BOUNDS.items():
            assert low <= score.parts[name] <= high, name


def test_a_long_row_of_boxes_is_read_in_linear_time() -> None:
    assert outcome(DAEI, "boxed{" * 20_000) == "wrong"
    assert outcome(DAEI, "boxed[[" * 20_000 + "Bican") == "wrong"
