"""Examples from records, the message of every bad input, and the split."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from grpo.data.example import Example, load_examples, to_record, train_heldout_split
from grpo.errors import UserError

DOC = {"title": "Ali Daei", "text": "Ali Daei scored 109 goals.", "answers_found": [1, 0]}
GOOD = {"question": "Who scored?", "answers": [["Daei", "Ali Daei"], ["Bican"]], "docs": [DOC]}


def write(path: Path, *records: object) -> Path:
    text = json.dumps(records) if ".json" in path.suffixes else "\n".join(map(json.dumps, records)) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz"])
def test_every_ending_gives_the_same_examples(tmp_path: Path, name: str) -> None:
    (example,) = load_examples(write(tmp_path / name, GOOD))
    assert example.answers == (("Daei", "Ali Daei"), ("Bican",))
    assert example.found == ((True, False),)
    assert example.style == "prose"
    assert (example.id, example.source) == ("a-7e218bf7c536", "a")


def test_labels_are_computed_only_where_they_are_missing(tmp_path: Path) -> None:
    text = {"title": "", "text": "In 1955 Bican stopped."}
    null = {**text, "answers_found": None}
    wrong = {**text, "answers_found": [1, 0]}  # given labels may come from entailment: they are believed
    (example,) = load_examples(write(tmp_path / "a.jsonl", {**GOOD, "docs": [text, null, wrong]}))
    assert example.found == ((False, True), (False, True), (True, False))


def test_a_flat_list_is_one_answer_in_prose_and_one_a_string_elsewhere(tmp_path: Path) -> None:
    flat = {"question": "Who?", "answers": ["Daei", "Bican"]}
    prose = {**flat, "docs": [{"title": "", "text": "Daei", "answers_found": [1]}]}
    item = {**flat, "docs": [{"title": "", "text": "Daei"}], "data_type": "qampari"}
    claim = {**flat, "docs": [DOC], "data_type": "ELI5"}
    first, second, third = load_examples(write(tmp_path / "a.jsonl", prose, item, claim))
    assert first.answers == (("Daei", "Bican"),)
    assert (second.answers, second.style, second.source) == ((("Daei",), ("Bican",)), "list", "qampari")
    assert second.found == ((True, False),)
    assert (third.answers, third.style, third.source) == ((("Daei",), ("Bican",)), "claims", "eli5")


def test_stated_style_source_and_id_win(tmp_path: Path) -> None:
    record = {**GOOD, "style": "list", "source": "mine", "id": 7, "data_type": "asqa"}
    (example,) = load_examples(write(tmp_path / "a.jsonl", record))
    assert (example.style, example.source, example.id) == ("list", "mine", "7")
    (example,) = load_examples(write(tmp_path / "b.jsonl", GOOD), style="list")
    assert example.style == "list"


def test_closed_questions_need_no_docs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "Capital?", "answers": ["Paris"], "style": "closed"})
    (example,) = load_examples(path)
    assert example.passages == ()
    assert example.answerable


def test_a_question_over_other_docs_gets_a_numbered_id(tmp_path: Path) -> None:
    ids = [example.id for example in load_examples(write(tmp_path / "a.jsonl", GOOD, GOOD, GOOD))]
    assert ids == ["a-7e218bf7c536", "a-7e218bf7c536-2", "a-7e218bf7c536-3"]


def test_explicit_empty_labels_make_a_question_without_answers_unanswerable(tmp_path: Path) -> None:
    record = {"question": "Who?", "answers": [], "docs": [{"title": "", "text": "x", "answers_found": []}]}
    (example,) = load_examples(write(tmp_path / "a.jsonl", record))
    assert not example.answerable


def test_unicode_line_ends_blank_lines_and_a_byte_order_mark_are_harmless(tmp_path: Path) -> None:
    record = json.dumps({**GOOD, "question": "Who\u2028scored?"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"\ufeff{record}\r\n\n", encoding="utf-8")
    assert load_examples(tmp_path / "a.jsonl")[0].question == "Who\u2028scored?"


def without(field: str) -> dict[str, object]:
    return {key: value for key, value in GOOD.items() if key != field}


def doc(**changes: object) -> dict[str, object]:
    return {**GOOD, "docs": [DOC, {**DOC, **changes}]}


BAD_RECORDS: list[tuple[object, list[str]]] = [
    (without("question"), ["question is missing", "expected a string"]),
    ({**GOOD, "question": " "}, ["question is empty"]),
    ({**GOOD, "question": 3}, ["question is 3", "a string"]),
    (without("answers"), ["answers is missing", '[["Paris", "City of Paris"]]']),
    ({**GOOD, "answers": 3}, ["answers is 3", "list of lists"]),
    ({**GOOD, "answers": []}, ["answers is empty"]),
    ({**GOOD, "answers": [["Daei"], []]}, ["answers[1] is empty"]),
    ({**GOOD, "answers": [["Daei"], [1937]]}, ["answers[1][0] is 1937"]),
    ({**GOOD, "answers": [["..."], ["the", "?"]]}, ["answers are only punctuation and articles"]),
    (without("docs"), ["docs is missing", "list of objects with title, text"]),
    ({**GOOD, "docs": []}, ["docs is empty"]),
    ({**GOOD, "docs": [3]}, ["docs[0] is 3"]),
    ({**without("docs"), "ctxs": []}, ["docs is missing", "(the record has question, answers, ctxs)"]),
    (doc(text=None), ["docs[1].text is missing"]),
    (doc(title=1), ["docs[1].title is 1"]),
    (doc(answers_found=[1]), ["docs[1]: answers_found has 1 entries", "2 of 0 or 1, one per answer"]),
    (doc(answers_found=[1, 2]), ["docs[1].answers_found[1] is 2", "one 0 or 1 per answer"]),
    (doc(answers_found="10"), ["docs[1].answers_found is '10'"]),
    ({**doc(answers_found=None), "style": "claims"}, ["docs[1]: answers_found is missing", "1 per claim"]),
    ({**GOOD, "style": "poem"}, ["style is 'poem'", "prose, list, claims, closed"]),
    ({**GOOD, "data_type": "nq"}, ["data_type is 'nq'", "asqa, qampari, eli5, expertqa"]),
    ({**GOOD, "style": "closed"}, ["docs is [{", "no docs in closed style"]),
    ({**GOOD, "id": True}, ["id is True", "a string, a whole number, or no id"]),
    ({**GOOD, "id": ""}, ["id is empty"]),
    (["question"], ["a record is list", "an object"]),
]


@pytest.mark.parametrize(("record", "parts"), BAD_RECORDS)
def test_a_bad_record_is_named_with_its_place(tmp_path: Path, record: object, parts: list[str]) -> None:
    lines = write(tmp_path / "bad.jsonl", GOOD, record)
    listed = write(tmp_path / "bad.json", GOOD, record)
    for path, place in ((lines, f"{lines}:2: "), (listed, f"{listed}, record 2: ")):
        with pytest.raises(UserError) as caught:
            load_examples(path)
        message = str(caught.value)
        assert message.startswith(place)
        assert "expected" in message
        assert "\n" not in message
        for part in parts:
            assert part in message


def test_duplicate_ids_name_both_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {**GOOD, "id": "q"}, GOOD, {**GOOD, "id": "q"})
    with pytest.raises(UserError, match=rf"{path}:3: id 'q' is taken by {path}:1; expected another id"):
        load_examples(path)


def test_a_missing_file_names_its_neighbors(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(UserError, match=r"trian\.jsonl: no such file; nearest in .*: train\.jsonl"):
        load_examples(tmp_path / "trian.jsonl")
    with pytest.raises(UserError, match="there is no folder"):
        load_examples(tmp_path / "no" / "train.jsonl")


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("a.jsonl", b"", "holds no records; expected at least one"),
    ("a.json", b" \n", "holds no records; expected at least one"),
    ("a.json", b"[]", "holds no records; expected at least one"),
    ("a.json", b'{"data": []}', "dict with data at the top; expected a JSON list"),
    (
        "a.jsonl",
        b'\n{"question": }\n',
        r"a\.jsonl:2: malformed JSON \(Expecting value, column 14\); expected one JSON obj",
    ),
    ("a.json", b"[\n{}\n{}]", r"a\.json:3: malformed JSON \(Expecting ',' delimiter, column 1\); expected a JSON list"),
    ("a.jsonl", b'{"question": "caf\xe9"}', "byte 17 is not UTF-8"),
    ("a.jsonl.gz", b"{}", "cannot be read"),
    ("a.json.gz", gzip.compress(b"[]", mtime=0)[:-4], "cannot be read"),
    ("a.txt", b"question", r"unknown ending, and no JSON; expected a \.json, \.jsonl"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_examples(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", GOOD)
    assert len(load_examples("~/a.jsonl")) == 1


@pytest.mark.parametrize("name", ["a\0.jsonl", "~nobody-of-this-name/a.jsonl", "x" * 300 + ".jsonl"])
def test_a_name_that_cannot_be_opened_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"no such file|cannot be read"):
        load_examples(name)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder without data files; expected"):
        load_examples(tmp_path)


def test_other_fields_of_a_record_are_kept(tmp_path: Path) -> None:
    record = {**GOOD, "id": "q", "style": "prose", "source": "t", "topic": "sport", "empty": None}
    (example,) = load_examples(write(tmp_path / "a.jsonl", record))
    assert example.extra == {"topic": "sport", "empty": None}
    assert to_record(example) == record


def test_hub_data_sets_load_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads a local folder just as it reads a hub name; it fills up missing fields with None."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", {**GOOD, "id": "q"}, {**GOOD, "docs": [{"title": "", "text": "Bican"}]})
    first, second = load_examples(f"hub:{folder}:train")
    assert first.id == "q"
    assert first.found == ((True, False),)
    assert second.found == ((False, True),)
    with pytest.raises(UserError, match=r"test.*expected one of hub:.*set:default/train"):
        load_examples(f"hub:{folder}:test")


def test_the_hub_without_datasets_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="hub:x/y: needs the datasets package"):
        load_examples("hub:x/y")


def question(key: str, text: str) -> Example:
    return Example(id=key, question=text, passages=(), answers=(("x",),), found=(), style="closed", source="t")


def test_the_split_is_disjoint_stable_and_in_order() -> None:
    examples = [question(f"q{number}", f"Question number {number}?") for number in range(1000)]
    train, held = train_heldout_split(examples)
    assert (len(train), len(held)) == (909, 91)  # pinned: a change would leak held-out questions into training
    assert [example.id for example in held[:5]] == ["q4", "q17", "q24", "q43", "q48"]
    assert sorted([*train, *held], key=examples.index) == examples
    assert train == [example for example in examples if example in train]
    # neither other examples nor their order move a question to the other side
    assert train_heldout_split(examples[::-7])[1] == [example for example in examples[::-7] if example in held]
    assert set(held) < set(train_heldout_split(examples, held_out=0.3)[1])
    assert train_heldout_split(examples, salt="other")[1] != held
    assert train_heldout_split(examples, held_out=0)[1] == []


def test_all_copies_of_a_question_land_on_one_side() -> None:
    variants = ("Who won in {}?", "who won in  {}", "WHO won, in the {}?")
    for number in range(200):
        copies = [question(f"{number}-{place}", text.format(number)) for place, text in enumerate(variants)]
        assert sorted(map(len, train_heldout_split(copies, held_out=0.5))) == [0, 3]


def test_a_split_needs_a_share() -> None:
    with pytest.raises(UserError, match="held_out = 1 is no share; expected 0 <= held_out < 1"):
        train_heldout_split([], held_out=1)
