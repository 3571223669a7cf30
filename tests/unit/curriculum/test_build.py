"""The builder on a small world: labels are looked up, shares are met, and nothing gives the gold passage away."""

import json
from collections import Counter
from pathlib import Path

import pytest

from curriculum.builder import BuildReport
from grpo.data.example import Example, train_heldout_split
from grpo.data.text import contains
from grpo.errors import UserError
from tests.helpers.built import build_file

PLACES = ["Orvale", "Quenby", "Tarnholt", "Ysmere", "Dunlow", "Fennick", "Glaston", "Harrowby", "Ivelton", "Jarrow"]
TRADES = ["baker", "miller", "sailor", "weaver", "potter", "tanner", "glazier", "cooper"]


def record(question: str, answers: list[str], text: str, title: str = "Annals") -> dict[str, object]:
    return {"question": question, "answers": answers, "ctxs": [{"title": title, "text": text, "isgold": True}]}


def world() -> list[dict[str, object]]:
    """Who had a trade in a place: 80 questions, each name in one passage."""
    records: list[dict[str, object]] = []
    for place in PLACES:
        for trade in TRADES:
            name = f"Mr. {place[:3]}{trade.title()}son"
            before = " ".join(f"old{number}" for number in range(30))
            text = f"{before} In {place} the {trade} was {name}, as is well known. {before}"
            records.append(record(f"who was the {trade} in {place}", [name, name[4:]], text, f"{place} {trade}"))
    return records


def write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def build(tmp_path: Path, records: list[dict[str, object]], **options: object) -> tuple[list[Example], BuildReport]:
    return build_file(write(tmp_path / "qa.jsonl", records), **options)


def test_both_forms_of_every_question(tmp_path: Path) -> None:
    examples, report = build(tmp_path, world(), passages=3)
    assert (report.read, report.kept, report.answerable, report.unanswerable) == (80, 80, 80, 80)
    assert [example.id for example in examples[:4]] == ["nq-000001", "nq-000001-u", "nq-000002", "nq-000002-u"]
    for example in examples:
        assert len(example.passages) == len(set(example.passages)) == 3
        assert example.answerable is not example.id.endswith("-u")
        assert example.found == tuple((contains(p.text, example.answers[0]),) for p in example.passages)
        assert (example.style, example.source) == ("prose", "nq")


def test_distractors_are_the_nearest_passages(tmp_path: Path) -> None:
    for example in build(tmp_path, world(), passages=3)[0]:
        trade, place = example.question.split()[3], example.question.split()[5]
        assert all(place in passage.title or trade in passage.title for passage in example.passages)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.75, 0.9, 1.0])
def test_the_share_is_hit_within_one_example(tmp_path: Path, share: float) -> None:
    examples, report = build(tmp_path, world(), unanswerable=share)
    refused = sum(not example.answerable for example in examples)
    assert refused == report.unanswerable
    assert len(examples) == report.answerable + report.unanswerable
    assert abs(refused - share * len(examples)) <= 1
    assert max(report.answerable, report.unanswerable) >= 79  # as many as the share allows


def test_the_gold_place_is_uniform(tmp_path: Path) -> None:
    places: Counter[int] = Counter()
    for seed in range(10):
        examples, _ = build(tmp_path, world(), passages=4, unanswerable=0.0, seed=seed)
        places.update(min(example.passages_with(0)) for example in examples)
    assert sorted(places) == [1, 2, 3, 4]
    chi_squared = sum((count - 200) ** 2 / 200 for count in places.values())
    assert chi_squared < 16.3  # 3 degrees of freedom, p = 0.001


def test_the_seed_decides(tmp_path: Path) -> None:
    options = {"unanswerable": 0.3, "max_words": 12}
    first = build(tmp_path, world(), seed=5, **options)
    assert build(tmp_path, world(), seed=5, **options) == first
    assert build(tmp_path, world(), seed=6, **options)[0] != first[0]


def test_labels_are_looked_up_and_answer_bearing_distractors_counted(tmp_path: Path) -> None:
    records = world()
    name = "Orvbakerson"
    twin = record(
        "which baker moved house", ["Tarnholt square"], f"The baker in Orvale, {name}, moved to Tarnholt square."
    )
    titled = record("which house was sold", ["the mill"], "The mill of the baker in Orvale was sold.", f"{name} house")
    examples, report = build(tmp_path, [*records, twin, titled], passages=5)
    with_gold, without = examples[:2]
    assert len(with_gold.passages_with(0)) == 2
    assert report.distractors_with_answer >= 1
    shown = " ".join(f"{passage.title} {passage.text}" for passage in without.passages)
    assert name not in shown
    assert not without.answerable


def test_questions_without_a_usable_answer_are_dropped_and_counted(tmp_path: Path) -> None:
    short = record("how many", ["7", "VII", "the a"], "He had seven, VII, cats.")
    gone = record("how many", ["7", "U.S."], "7 of the US.")
    absent = record("who was it", ["Nobody Special"], "It was someone else.")
    examples, report = build(tmp_path, [*world(), short, gone, absent])
    assert (report.read, report.kept, report.short_answers) == (83, 80, 4)
    assert report.dropped == {
        "with an answer of fewer than 3 characters": 2,  # also where it has a longer spelling: see the module
        "with no answer in the gold passage": 1,
    }
    assert not any(example.id.startswith("nq-00008") for example in examples if example.id > "nq-000080-u")
    assert "83 questions, 80 kept (dropped: 2 with an answer of fewer than 3 characters, 1 with" in str(report)


def test_passages_that_questions_share_stand_once_in_the_pool(tmp_path: Path) -> None:
    text = "Ada Quill of Orvale wrote Low Tide in 1911."
    shared = [
        record("who wrote low tide", ["Ada Quill"], text),
        record("when was low tide written", ["1911"], text.upper()),
    ]
    examples, _ = build(tmp_path, [*world(), *shared], passages=5)
    for example in examples[-4:]:
        tides = [passage for passage in example.passages if "tide" in passage.text.lower()]
        assert len(tides) == example.answerable


def test_cut_passages_keep_the_answer_and_look_alike(tmp_path: Path) -> None:
    examples, report = build(tmp_path, world(), max_words=12)
    assert report.answerable == 80
    assert {len(passage.text.split()) for example in examples for passage in example.passages} == {12}
    # a distractor is cut around the answer to its own question, so every passage tells of some name
    assert all("son" in passage.text for example in examples for passage in example.passages)
    gold = [
        example.passages[min(example.passages_with(0)) - 1].text.split() for example in examples if example.answerable
    ]
    assert len({next(n for n, word in enumerate(words) if "son" in word) for words in gold}) > 5


def test_a_cut_prefers_the_answer_as_words_of_its_own(tmp_path: Path) -> None:
    hidden = record("how many", ["one"], f"Someone, {' '.join(['word'] * 40)} but one was left.")
    examples, _ = build(tmp_path, [*world(), hidden], max_words=6, unanswerable=0.0)
    (example,) = [example for example in examples if example.id == "nq-000081"]
    assert "one" in example.passages[min(example.passages_with(0)) - 1].text.split()
    inside = record("what year", ["193"], f"{' '.join(['word'] * 40)} in 1938 it ended {' '.join(['word'] * 40)}.")
    assert build(tmp_path, [*world(), inside], max_words=6)[1].kept == 80  # 193 is not in 1938
    long = record("what", ["a b c d e f g h"], f"{' '.join(['word'] * 9)} a b c d e f g h.")
    assert build(tmp_path, [*world(), long], max_words=6)[1].dropped == {"with an answer longer than max_words": 1}


def test_both_forms_land_on_one_side_of_the_split(tmp_path: Path) -> None:
    examples, _ = build(tmp_path, world())
    train, held = train_heldout_split(examples, held_out=0.3)
    assert held
    assert train
    sides = [{example.id.removesuffix("-u") for example in side} for side in (train, held)]
    assert not sides[0] & sides[1]


def test_a_question_of_stop_words_still_gets_distractors(tmp_path: Path) -> None:
    examples, _ = build(tmp_path, [*world(), record("the of", ["Ada Quill"], "Ada Quill it was.")])
    assert len(examples) == 162


GOOD = record("who", ["Ada Quill"], "Ada Quill it was.")
BAD: list[tuple[dict[str, object], str]] = [
    ({**GOOD, "question": None}, r"qa\.jsonl:1: question is missing; expected a string"),
    ({**GOOD, "answers": 3}, r"qa\.jsonl:1: answers is 3; expected a string, or a list of accepted spellings"),
    ({**GOOD, "ctxs": None}, r"qa\.jsonl:1: unknown format \(the record has question, answers, ctxs\); nearest: ctxs,"),
    ({**GOOD, "ctxs": "x"}, r"qa\.jsonl:1: ctxs is 'x'; expected a list of objects"),
    ({**GOOD, "ctxs": []}, r"qa\.jsonl:1: ctxs has 0 gold passages; expected exactly one"),
    ({**GOOD, "ctxs": [{"title": "", "text": "x", "isgold": True}] * 2}, r"qa\.jsonl:1: ctxs has 2 gold passages"),
    ({**GOOD, "ctxs": [{"title": "", "isgold": True}]}, r"qa\.jsonl:1: ctxs\[0\]\.text is missing; expected a text"),
    (record("who", ["Nobody"], "Someone."), "no question can be used"),
    (GOOD, r"unanswerable = 0\.5, but too few passages hold no answer; expected 0, a larger file or a --pool"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_input_is_named(tmp_path: Path, bad: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(tmp_path, [bad])


def test_bad_settings_are_named(tmp_path: Path) -> None:
    for options in ({"passages": 0}, {"unanswerable": 1.5}, {"max_words": 0}):
        with pytest.raises(UserError, match="expected passages >= 1, 0 <= unanswerable <= 1 and max_words >= 1"):
            build(tmp_path, world(), **options)


def test_refusals_cannot_be_made_where_every_passage_answers(tmp_path: Path) -> None:
    records = [record(f"who was it in {place}", ["Ada Quill"], f"Ada Quill, in {place}.") for place in PLACES]
    with pytest.raises(UserError, match=r"unanswerable = 0\.5, but too few passages hold no answer; expected 0"):
        build(tmp_path, records)
    report = build(tmp_path, records, unanswerable=0.0)[1]
    assert (report.answerable, report.without_refusal, report.distractors_with_answer) == (10, 10, 10)
