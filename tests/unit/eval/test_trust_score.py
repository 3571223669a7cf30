"""Trust-Score against the field's own numbers, and what the default protocol does otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.answer_extraction import (
    REFUSAL_FLAG,
    DefaultProtocol,
    TrustEvalProtocol,
    partial_ratio,
)
from eval.answer_scores import score_answers
from eval.bootstrap import intervals, paired
from eval.predictions import Prediction, read_predictions, write_predictions
from eval.score import main, score_predictions
from eval.trust_score import COLUMNS, confusion, scores
from grpo.data.example import Passage
from grpo.data.text import normalize
from grpo.errors import UserError
from rewards.judges.lexical import TokenSubsetJudge

GOLDEN = json.loads((Path(__file__).parents[2] / "data/trust_score_golden.json").read_text())
MICRO = GOLDEN["citation_micro"]
REFUSAL = "I apologize, but I couldn't find an answer to your question in the search results."
STYLES = {"asqa": "prose", "qampari": "list", "eli5": "claims"}


def predictions(items: list[dict], style: str, tmp_path: Path) -> list[Prediction]:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return read_predictions(path, style=style)


def report(items: list[dict], style: str, tmp_path: Path, *, reference: bool, **options) -> dict:
    asked = predictions(items, style, tmp_path)
    return score_predictions(asked, TokenSubsetJudge(), nli="lexical", reference=reference, resamples=0, **options)


def micro(name: str) -> tuple[dict, str]:
    item = MICRO[name]["item"]
    answers = [[f"unsaid{n}"] for n in range(len(item["docs"][0]["answers_found"]))]
    return {**item, "answers": answers}, "list" if name == "qampari_list" else "prose"


def item(output: str, *, answers=(("109",),), docs=(("Daei", "Daei scored 109 goals.", (1,)),), question="Goals?"):
    return {
        "question": question,
        "answers": [list(aliases) for aliases in answers],
        "docs": [{"title": t, "text": text, "answers_found": list(found)} for t, text, found in docs],
        "output": output,
    }


@pytest.mark.parametrize("name", ["asqa", "qampari"])
def test_every_number_of_the_fields_evaluator(name: str, tmp_path: Path) -> None:
    numbers = report(GOLDEN[name]["items"], STYLES[name], tmp_path, reference=True)
    expected = GOLDEN[name]["expected"]
    assert len(expected) in (28, 50)
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-5)
    assert numbers["f1_ac"] == pytest.approx(62.5 if name == "asqa" else 63.636364, abs=1e-5)


def test_claims_by_hand(tmp_path: Path) -> None:
    docs = (("Ice", "Ice is frozen water. Ice floats.", (1, 1, 0)), ("Sea", "Seas are salty.", (0, 0, 1)))
    answers = (("ice is frozen water",), ("ice floats",), ("seas are salty",))
    said = item("Ice is frozen water [1]. Seas are salty [1].", answers=answers, docs=docs)
    silent = item(REFUSAL, answers=answers, docs=docs)
    numbers = report([said, silent], "claims", tmp_path, reference=True)
    assert numbers["calib_answered_claims_nli"] == pytest.approx(200 / 3)
    assert numbers["calib_answerable_claims_nli"] == pytest.approx(100 / 3)
    assert numbers["calib_claims_nli_f1"] == pytest.approx(400 / 9)
    assert numbers["citation_recall"] == numbers["citation_precision"] == 50  # the second passage holds the salt
    assert (numbers["f1_refusal"], numbers["answer_recall"]) == (0, 50)


def test_all_refused_and_all_answered(tmp_path: Path) -> None:
    items = [{**one, "output": REFUSAL} for one in GOLDEN["asqa"]["items"]]
    numbers = report(items, "prose", tmp_path, reference=True)
    assert [numbers[key] for key in ("answered_ratio", "f1_gr", "f1_ac", "f1_gc")] == pytest.approx([0, 25, 0, 0])
    assert numbers["trust_score"] == pytest.approx(8.333333, abs=1e-5)

    answered = [
        {**one, "output": "x" if one["output"] == REFUSAL else one["output"]} for one in GOLDEN["asqa"]["items"]
    ]
    numbers = report(answered, "prose", tmp_path, reference=True)
    found = [numbers[key] for key in ("f1_gr", "ac_precision", "ac_recall", "f1_ac", "f1_gc", "trust_score")]
    assert found == pytest.approx([40, 41.6667, 62.5, 50, 40.229885, 43.409962], abs=1e-4)


def test_a_refusal_that_is_none_without_its_citation_marks(tmp_path: Path) -> None:
    """The field asks twice: AR of the raw text, correctness of the bare one."""
    text = "I apologize, but I couldn't [6] find an[4] 109 to your[3] question Daei"
    items = [item(text, answers=(("find",),)), item("find it [1].", answers=(("find",),))]
    numbers = report(items, "prose", tmp_path, reference=True)
    assert numbers["answered_ratio"] == 50
    assert numbers["calib_answerable_str_em"] == numbers["ac_recall"] == 100
    assert numbers["calib_str_em_f1"] == numbers["f1_ac"] == 100


@pytest.mark.parametrize("name", MICRO)
def test_citation_cases_as_the_field_scores_them(name: str, tmp_path: Path) -> None:
    one, style = micro(name)
    numbers = report([one], style, tmp_path, reference=True)
    expected = MICRO[name]["expected"]
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "recall", "precision"),
    [
        ("single_ok", 100, 100),
        ("joint_needed", 100, 100),
        ("overcite_plain", 100, 50),
        ("out_of_range", 50, 50),  # the field charges nothing for a passage that does not exist: 50, 100
        ("zero_id", 0, 0),  # the field: 100, 100
        ("citation_after_period", 100, 100),  # the field: 33.3, 50
        ("duplicate", 100, 100),
    ],
)
def test_citation_cases_as_a_reader_scores_them(name: str, recall: float, precision: float, tmp_path: Path) -> None:
    one, style = micro(name)
    numbers = report([one], style, tmp_path, reference=False)
    assert (numbers["citation_recall"], numbers["citation_precision"]) == (recall, precision)


def test_an_unneeded_citation_that_shares_an_answer(tmp_path: Path) -> None:
    docs = (("A", "Daei scored 109 goals.", (1,)), ("B", "109 is a number.", (1,)))
    one = item("Daei scored 109 goals [1][2].", docs=docs)
    strict, shared = (report([one], "prose", tmp_path, reference=flag) for flag in (False, True))
    assert (strict["citation_precision"], shared["citation_precision"]) == (50, 100)
    for numbers in (strict, shared):
        assert (numbers["citation_precision_strict"], numbers["citation_precision_shared"]) == (50, 100)


@pytest.mark.parametrize("case", GOLDEN["refusal"]["cases"], ids=lambda case: case["output"][:30])
def test_refusals_of_the_field(case: dict) -> None:
    assert partial_ratio(REFUSAL_FLAG, normalize(case["output"])) == case["partial_ratio"]
    assert TrustEvalProtocol().is_refusal(case["output"]) is case["is_refusal"]


def test_a_piece_of_the_refusal_is_no_refusal_to_a_reader() -> None:
    reader, field = DefaultProtocol(), TrustEvalProtocol()
    assert [field.is_refusal(text) for text in ("an answer", "I", REFUSAL)] == [True, True, True]
    assert [reader.is_refusal(text) for text in ("an answer", "I", REFUSAL)] == [False, False, True]


def test_strings_of_the_field() -> None:
    field = TrustEvalProtocol()
    assert [field.strip_citations(text) for text, _ in GOLDEN["remove_citations"]] == [
        bare for _, bare in GOLDEN["remove_citations"]
    ]
    assert [normalize(text) for text, _ in GOLDEN["normalize_answer"]] == [
        normal for _, normal in GOLDEN["normalize_answer"]
    ]
    assert [field.contains_answer(text, aliases) for aliases, text, _ in GOLDEN["exact_presence"]] == [
        said for _, _, said in GOLDEN["exact_presence"]
    ]


def test_a_reader_finds_whole_words_only() -> None:
    reader = DefaultProtocol()
    assert not reader.contains_answer("1938 was the year", ["38"])
    assert not reader.contains_answer("The theater opened", ["Heat"])
    assert not reader.contains_answer("anything", ["the"])
    assert reader.contains_answer("In '38, he left", ["1838", "38"])
    for text, alias in (
        ("Ali Daei's record", "Ali Daei"),
        ("the Paris-based club", "Paris"),
        ("London/Paris", "Paris"),
        ("“Heat” was it", "Heat"),
        ("from 1914–1918", "1914"),
        ("the U.S. team", "US"),
    ):
        assert reader.contains_answer(text, [alias]), text


def test_several_numbers_in_one_bracket(tmp_path: Path) -> None:
    docs = (("A", "alpha one", (1,)), ("B", "beta two", (0,)), ("C", "gamma", (0,)))
    one = item("Alpha one beta two [1, 2].", docs=docs)
    reader, field = (report([one], "prose", tmp_path, reference=flag) for flag in (False, True))
    assert (reader["citation_recall"], field["citation_recall"]) == (100, 0)
    asked = predictions([one], "prose", tmp_path)[0].example
    for text, sources in (("Gamma [1-3].", (0, 1, 2)), ("Gamma [1; 3].", (0, 2)), ("Gamma [3-1].", (2, 0))):
        (statement,) = DefaultProtocol().statements(text, asked)
        assert (statement.text, statement.sources) == ("Gamma.", sources)


def test_lists_in_prose_are_read_line_by_line(tmp_path: Path) -> None:
    docs = (("A", "alpha one", (1,)), ("B", "beta two", (0,)))
    asked = predictions([item("", docs=docs)], "prose", tmp_path)[0].example
    for text in ("1. Alpha one [1].\n2. Beta two [2].", "- Alpha one. ([1])\n- Beta two. [2]"):
        found = DefaultProtocol().statements(text, asked)
        assert [(s.text.strip(" ()"), s.sources) for s in found] == [("Alpha one.", (0,)), ("Beta two.", (1,))]


def test_an_answer_with_a_comma_in_a_list(tmp_path: Path) -> None:
    docs = (("Ikegami", "He drew Mai, the Psychic Girl and Heat.", (1, 1)),)
    answers = (("Mai, the Psychic Girl",), ("Heat",))
    one = item("Mai, the Psychic Girl [1], Heat [1].", answers=answers, docs=docs, question="He drew")
    reader, field = (report([one], "list", tmp_path, reference=flag) for flag in (False, True))
    assert reader["f1_ac"] == 100
    assert field["f1_ac"] == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5) * 100)
    assert reader["citation_recall"] == 100
    other = item("Gandhi, Robots", answers=(("Gandhi",), ("Robots",), ("I, Robot",)), docs=(("A", "x", (1, 1, 0)),))
    assert report([other], "list", tmp_path, reference=False)["f1_ac"] == 100


def test_a_table_says_what_a_perfect_system_would_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.jsonl"
    for flag, ceiling in ((1, "83.33"), (0, "16.67")):
        docs = (("A", "Daei scored 109 goals.", (flag,)),)
        path.write_text(json.dumps(item("Daei scored 109 goals [1].", docs=docs)) + "\n")
        assert main([str(path), "--style", "prose", "--nli", "lexical"]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert f"a perfect system scores {ceiling} here" in out
        (tmp_path / "p.scores.json").unlink()
    assert report(GOLDEN["asqa"]["items"], "prose", tmp_path, reference=False)["ceiling"] == 100


def test_refusal_sentences_of_ones_own(tmp_path: Path) -> None:
    one = item("Nicht gefunden.", docs=(("A", "x", (0,)),))
    assert report([one], "prose", tmp_path, reference=False)["answered_ratio"] == 100
    assert report([one], "prose", tmp_path, reference=False, refusals=("Nicht gefunden",))["answered_ratio"] == 0


def test_a_refusal_of_ones_own_is_no_attempt_at_a_closed_book_question(tmp_path: Path) -> None:
    one = {"question": "Goals?", "answers": [["109"]], "style": "closed", "output": "Nicht gefunden."}
    assert report([one], "closed", tmp_path, reference=False)["not_attempted"] == 0
    assert report([one], "closed", tmp_path, reference=False, refusals=("Nicht gefunden",))["not_attempted"] == 100


def test_an_empty_answer_is_worth_nothing(tmp_path: Path) -> None:
    items = [item("Daei scored 109 goals [1]."), item("")]
    reader, field = (report(items, "prose", tmp_path, reference=flag) for flag in (False, True))
    assert (reader["answered_ratio"], reader["ac_precision"]) == (100, 50)
    assert (reader["citation_recall"], field["citation_recall"]) == (50, 100)
    nothing = item("", answers=(("It was.",), ("",)), docs=(("A", "x", (1, 1)),))  # a lexical judge finds both in it
    assert report([nothing], "claims", tmp_path, reference=False)["f1_ac"] == 0


def test_reasoning_is_not_scored_but_asked_whether_it_leads_to_the_answer(tmp_path: Path) -> None:
    think = "<think>Daei scored 109 goals, says [7].</think><answer>Daei scored 109 goals [1].</answer>"
    stray = "<think>Who knows.</think><answer>Daei scored 109 goals [1].</answer>"
    numbers = report([item(think), item(stray)], "prose", tmp_path, reference=False, reasoning=True)
    assert (numbers["citation_recall"], numbers["citation_precision"], numbers["align"]) == (100, 100, 50)


def test_the_confusion_matrix_and_its_rates(tmp_path: Path) -> None:
    asked = predictions(GOLDEN["asqa"]["items"], "prose", tmp_path)
    items = score_answers(asked, TokenSubsetJudge(), protocol=TrustEvalProtocol())
    assert confusion(items.sums_IK) == {
        "answerable_answered": 3,
        "answerable_refused": 1,
        "unanswerable_answered": 1,
        "unanswerable_refused": 1,
    }
    rates = scores(items.sums_IK.sum(0))
    assert (rates["over_refusal"][0], rates["over_answer"][0]) == (25, 50)


def test_scores_of_resamples_are_those_of_the_resampled_questions(tmp_path: Path) -> None:
    items = GOLDEN["asqa"]["items"]
    chosen = [0, 0, 1, 4, 5, 5]
    sums = score_answers(
        predictions(items, "prose", tmp_path), TokenSubsetJudge(), protocol=TrustEvalProtocol()
    ).sums_IK
    counts = np.bincount(chosen, minlength=len(items)).astype(float)
    drawn = report([items[i] for i in chosen], "prose", tmp_path, reference=True)
    assert scores(np.stack([counts @ sums, sums.sum(0)]))["trust_score"] == pytest.approx(
        [drawn["trust_score"], 61.781609], abs=1e-5
    )


def test_intervals_cover_what_a_binomial_says() -> None:
    sums = np.zeros((400, len(COLUMNS)))
    sums[:, COLUMNS.index("questions")] = 1
    sums[:100, COLUMNS.index("answered")] = 1
    low, high = intervals(sums, scores, resamples=2000)["answered_ratio"]
    # 25 % of 400: standard error 2.165 points
    assert (low, high) == pytest.approx((25 - 1.96 * 2.165, 25 + 1.96 * 2.165), abs=0.5)
    assert intervals(sums, scores, resamples=50, seed=1) == intervals(sums, scores, resamples=50, seed=1)


def test_a_paired_difference_is_surer_than_its_parts() -> None:
    a = np.zeros((400, len(COLUMNS)))
    a[:, COLUMNS.index("questions")] = 1
    a[:100, COLUMNS.index("answered")] = 1
    b = a.copy()
    b[100:112, COLUMNS.index("answered")] = 1  # twelve more of the same questions: never fewer in any resample
    difference, p = paired(a, b, scores, resamples=999)["answered_ratio"]
    assert difference == pytest.approx(3)
    assert p == pytest.approx(2 / 1000)
    assert paired(a, a, scores, resamples=99)["answered_ratio"] == (0, 1)


def test_citations_behind_a_full_stop(tmp_path: Path) -> None:
    text = "Dr. Moss wrote it. [1] It won in the U.S. in May. [2][3] He left."
    example = predictions([item(text)], "prose", tmp_path)[0].example
    many = DefaultProtocol().statements(text, example)
    assert [s.text for s in many] == ["Dr. Moss wrote it.", "It won in the U.S. in May.", "He left."]
    assert [(s.sources, s.citations) for s in many] == [((0,), 1), ((), 2), ((), 0)]  # there is one passage


BAD = {
    "no output": ({"output": None}, "record 2: output is NoneType; expected a string (it may be empty)"),
    "a number": ({"output": 3}, "record 2: output is int"),
    "no passages": ({"docs": []}, "record 2: docs is empty"),
    "no question": ({"question": None}, "record 2: question is missing"),
    "flags": ({"docs": [{"title": "", "text": "x", "answers_found": [1, 1]}]}, "docs[0]: answers_found has 2 entries"),
    "another style": ({"style": "list"}, "record 2: style is 'list'; expected 'prose' in every record"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = BAD[name]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (item("x"), {**item("y"), **change})))
    assert main([str(path), "--style", "prose", "--nli", "lexical"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}:2: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "p.scores.json").exists()


def test_made_ids_are_the_same_in_every_file_and_no_two_alike(tmp_path: Path) -> None:
    rows = "".join(json.dumps(one) + "\n" for one in (item("x"), item("y"), item("z", question="Who?")))
    (tmp_path / "a.jsonl").write_text(rows)
    (tmp_path / "b.jsonl").write_text(rows)
    a, b = ([p.example.id for p in read_predictions(tmp_path / name, style="prose")] for name in ("a.jsonl", "b.jsonl"))
    assert a == b
    assert len(set(a)) == 3
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({**item("x"), "id": "q"}) + "\n" for _ in range(2)))
    with pytest.raises(UserError, match=r"c.jsonl:2: record 2: id 'q' is taken by .*c.jsonl:1"):
        read_predictions(tmp_path / "c.jsonl", style="prose")


def test_a_line_of_brackets_is_malformed_and_a_huge_number_no_passage(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"a.jsonl:1: malformed JSON"):
        read_predictions(tmp_path / "a.jsonl", style="prose")
    for reference in (False, True):
        numbers = report([item(f"Daei scored 109 goals [{'9' * 5000}].")], "prose", tmp_path, reference=reference)
        assert numbers["citation_recall"] == 0


def test_the_reference_needs_punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(UserError, match="run `make setup`"):
        report([item("x")], "prose", tmp_path, reference=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--style", "prose", "--nli", "lexical", "--out", "nowhere/s.json"], "there is no folder nowhere"),
        (["--style", "prose", "--nli", "lexical", "--cache", "c.sqlite"], "the lexical judge needs no cache"),
        (["--style", "poem", "--nli", "lexical"], "style 'poem' cannot be scored; valid: prose, list, claims"),
        (["--style", "prose", "--nli", "lexicla"], "lexicla"),
        (["--style", "prose", "--nli", "lexical", "--resamples", "-1"], "--resamples -1: expected 0 or more"),
    ],
)
def test_a_bad_option_is_named(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(item("x")) + "\n")
    assert main([str(path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command_writes_scores_and_overwrites_no_other_file(tmp_path: Path, capsys) -> None:
    path, out = tmp_path / "p.jsonl", tmp_path / "scores.json"
    path.write_text("".join(json.dumps(one) + "\n" for one in GOLDEN["asqa"]["items"]))
    command = [str(path), "--style", "prose", "--nli", "lexical", "--reference", "--out", str(out)]
    assert main(command) == 0
    written = json.loads(out.read_text())
    assert written["trust_score"] == pytest.approx(61.781609, abs=1e-5)
    assert written["settings"]["sentence_splitter"] == "nltk punkt_tab"
    assert written["intervals"]["trust_score"][0] < 61.78 < written["intervals"]["trust_score"][1]
    assert (len(written["items"]["rows"]), written["items"]["columns"]) == (6, list(COLUMNS))
    assert "Trust-Score" in capsys.readouterr().out
    assert main(command) == 0  # its own file may be written again
    out.write_text("notes of mine")
    assert main(command) == 2
    assert out.read_text() == "notes of mine"


def test_predictions_survive_a_round_trip(tmp_path: Path) -> None:
    asked = predictions(GOLDEN["qampari"]["items"], "list", tmp_path)
    write_predictions(tmp_path / "again.jsonl", asked)
    again = read_predictions(tmp_path / "again.jsonl", style="list")
    assert [p.output for p in again] == [p.output for p in asked]
    assert again[0].example == asked[0].example.__class__(
        **{name: getattr(asked[0].example, name) for name in asked[0].example.__slots__}
    )
    assert again[0].example.passages[1] == Passage(title="More", text="manga Ikegami Crying Freeman Strain")
    with pytest.raises(UserError, match="exists already"):
        write_predictions(tmp_path / "again.jsonl", asked)
