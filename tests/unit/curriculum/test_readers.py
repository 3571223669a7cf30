"""Every shape that people's files have: read rightly, or refused by one line with place, finding and what is valid."""

import csv
import io
import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from curriculum.datasets import DataSpec
from curriculum.sources import READERS, load_source
from grpo.config import load
from grpo.errors import UserError
from launch.config.recipe import Recipe
from tests.helpers.records import HOTPOT, MUSIQUE

BRILL = "Brill Lighthouse was built in 1846 by the mason Tove Arden. It stands on the east cliff."
ORRA = "The river Orra is 212 kilometers long and rises in the Sable Hills."
ASKED = "Who built Brill Lighthouse?"
LONG = "Brill Lighthouse was built in 1846. Its mason was a man of the north."
DOCS = [{"title": "Brill", "text": BRILL}, {"title": "Orra", "text": ORRA}]
SCORED = [{**doc, "id": str(place), "score": 1.5} for place, doc in enumerate(DOCS)]
PAGES = [{"page_content": doc["text"], "metadata": {"source": "1.pdf", "title": doc["title"]}} for doc in DOCS]
PROMPT = (
    f"Instruction: Answer.\n\nQuestion: Who?\n\nDocument [1](Title: T): It.\nAnswer: It [1].\n\n\nQuestion: {ASKED}\n\n"
    f"Document [1](Title: Brill): {BRILL}\nDocument [2](Title: Orra): {ORRA}\nAnswer:"
)
TITLED = ("Brill", "Orra")
SPAN, BOTH = (("Tove Arden",),), (("Tove Arden", "Arden"),)
CLAIMS = (("Brill Lighthouse was built in 1846.",), ("Its mason was a man of the north.",))
HELD = ((True,), (False,))
FIRST_CLAIM = ((True, False), (False, False))

# reader, record, titles of the passages, answers, found, style, names in extra
SHAPES = [
    (
        "grounded",
        {"question": ASKED, "answers": ["Tove Arden"], "docs": [BRILL, ORRA]},
        ("", ""),
        SPAN,
        HELD,
        "prose",
        (),
    ),
    ("grounded", {"question": ASKED, "answer": "Tove Arden", "docs": DOCS}, TITLED, SPAN, HELD, "prose", ()),
    (
        "grounded",
        {
            "question": ASKED,
            "answers": [["Tove Arden"]],
            "docs": [DOCS[0] | {"answers_found": True}, DOCS[1] | {"answers_found": False}],
        },
        TITLED,
        SPAN,
        HELD,
        "prose",
        (),
    ),
    ("grounded", {"question": ASKED, "answer": LONG, "docs": DOCS}, TITLED, CLAIMS, FIRST_CLAIM, "claims", ()),
    (
        "alce_asqa",
        {
            "sample_id": "s1",
            "question": ASKED,
            "qa_pairs": [{"question": "Who?", "short_answers": ["Tove Arden", "Arden"]}],
            "answer": LONG,
            "docs": SCORED,
        },
        TITLED,
        BOTH,
        HELD,
        "prose",
        ("answer",),
    ),
    (
        "alce_asqa",
        {
            "question": ASKED,
            "qa_pairs": [{"short_answers": ["Nobody"]}],
            "output": "x [1].",
            "docs": [s | {"answers_found": [int(n == 0)]} for n, s in enumerate(SCORED)],
        },
        TITLED,
        (("Nobody",),),
        HELD,
        "prose",
        ("output",),
    ),
    (
        "alce_eli5",
        {"question": ASKED, "claims": [c for (c,) in CLAIMS], "answer": LONG, "docs": SCORED},
        TITLED,
        CLAIMS,
        FIRST_CLAIM,
        "claims",
        ("answer",),
    ),
    (
        "alce_qampari",
        {"question": ASKED, "answers": [["Tove Arden", "Arden"], ["Bo"]], "docs": SCORED},
        TITLED,
        (*BOTH, ("Bo",)),
        ((True, False), (False, False)),
        "list",
        (),
    ),
    (
        "msmarco",
        {"query": ASKED, "answers": ["Tove Arden"], "passages": {"passage_text": [BRILL, ORRA], "is_selected": [1, 0]}},
        ("", ""),
        SPAN,
        HELD,
        "prose",
        (),
    ),
    (
        "ctxs",
        {"question": ASKED, "answers": ["Tove Arden"], "ctxs": [{**doc, "score": "9.1"} for doc in DOCS]},
        TITLED,
        SPAN,
        HELD,
        "prose",
        (),
    ),
    (
        "ragas",
        {"user_input": ASKED, "retrieved_contexts": [BRILL, ORRA], "response": LONG, "reference": "Tove Arden"},
        ("", ""),
        SPAN,
        HELD,
        "prose",
        ("response",),
    ),
    (
        "ragas_old",
        {"question": ASKED, "contexts": [BRILL, ORRA], "answer": LONG, "ground_truths": ["Tove Arden"]},
        ("", ""),
        SPAN,
        HELD,
        "prose",
        ("answer",),
    ),
    ("langchain", {"input": ASKED, "context": PAGES, "answer": LONG}, TITLED, CLAIMS, FIRST_CLAIM, "claims", ()),
    (
        "langchain_retrievalqa",
        {"query": ASKED, "result": LONG, "source_documents": PAGES},
        TITLED,
        CLAIMS,
        FIRST_CLAIM,
        "claims",
        (),
    ),
    (
        "langsmith",
        {
            "inputs": {"question": ASKED},
            "outputs": {"answer": LONG, "documents": PAGES},
            "reference_outputs": {"answer": "Tove Arden"},
        },
        TITLED,
        SPAN,
        HELD,
        "prose",
        (),
    ),
    (
        "llamaindex",
        {
            "query": ASKED,
            "response": LONG,
            "source_nodes": [
                {"node": {"text": d["text"], "metadata": {"file_name": d["title"]}}, "score": 0.8} for d in DOCS
            ],
            "reference_answer": "Tove Arden",
        },
        TITLED,
        SPAN,
        HELD,
        "prose",
        ("response",),
    ),
    (
        "rag_log",
        {"question": ASKED, "passages": DOCS, "answer": "Tove Arden", "user": "u1"},
        TITLED,
        SPAN,
        HELD,
        "prose",
        ("user",),
    ),
    (
        "rag_log",
        {"question": ASKED, "documents": [["Brill", [BRILL]], ["Orra", [ORRA]]], "answer": "Tove Arden"},
        TITLED,
        SPAN,
        HELD,
        "prose",
        (),
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": PROMPT},
                {"role": "assistant", "content": f"{CLAIMS[0][0][:-1]} [1]. {CLAIMS[1][0]}"},
            ]
        },
        TITLED,
        CLAIMS,
        FIRST_CLAIM,
        "claims",
        (),
    ),
    (
        "prompt_response",
        {"question": ASKED, "prompt": PROMPT, "response": LONG},
        TITLED,
        CLAIMS,
        FIRST_CLAIM,
        "claims",
        (),
    ),
    (
        "prompt_response",
        {
            "prompt": [{"role": "user", "content": PROMPT}],
            "chosen": [{"role": "assistant", "content": LONG}],
            "rejected": [{"role": "assistant", "content": "No."}],
        },
        TITLED,
        CLAIMS,
        FIRST_CLAIM,
        "claims",
        ("rejected",),
    ),
]
RETRIEVED = [  # their own gold passage among retrieved ones
    (
        "squad",
        {
            "title": "Brill",
            "context": BRILL,
            "question": ASKED,
            "answers": {"text": ["Tove Arden", "Arden"], "answer_start": [46, 51]},
        },
        BOTH,
    ),
    (
        "squad_file",
        {
            "title": "Brill",
            "paragraphs": [
                {
                    "context": BRILL,
                    "qas": [
                        {
                            "question": ASKED,
                            "answers": [{"text": "Tove Arden", "answer_start": 46}],
                            "is_impossible": False,
                        }
                    ],
                }
            ],
        },
        SPAN,
    ),
    (
        "ctxs",
        {"question": ASKED, "answers": ["Tove Arden"], "ctxs": [{"title": "Brill", "text": BRILL, "isgold": True}]},
        SPAN,
    ),
    (
        "hotpotqa",
        {
            "question": ASKED,
            "answer": "Tove Arden",
            "context": [["Brill", [BRILL]], ["Orra", [ORRA]]],
            "supporting_facts": [["Brill", 0]],
        },
        SPAN,
    ),
    (
        "hotpotqa",
        {
            "question": ASKED,
            "answer": "Tove Arden",
            "context": {"title": ["Brill", "Orra"], "sentences": [[BRILL], [ORRA]]},
            "supporting_facts": {"title": ["Brill"], "sent_id": [0]},
        },
        SPAN,
    ),
    (
        "musique",
        {
            "question": ASKED,
            "answer": "Tove Arden",
            "answer_aliases": ["Arden"],
            "paragraphs": [
                {"title": "Brill", "paragraph_text": BRILL, "is_supporting": True},
                {"title": "Orra", "paragraph_text": ORRA, "is_supporting": False},
            ],
        },
        BOTH,
    ),
]


def write(path: Path, *records: object) -> str:
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return str(path)


def changed(record: dict[str, object]) -> dict[str, object]:
    """The fields in another order, and one that nobody knows."""
    return {"zebra": {"x": 1}, **dict(reversed(record.items()))}


def read(path: str, **spec: object):
    return load_source(path, DataSpec(**spec))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "record", "titles", "answers", "found", "style", "extra"), SHAPES)
def test_a_log_is_read_as_it_is(tmp_path, name, record, titles, answers, found, style, extra):
    for given, more in ((record, ()), (changed(record), ("zebra",))):
        examples, said = read(write(tmp_path / "log.jsonl", {**given, "id": "q7"}))
        assert f"read as {name}" in said
        (example,) = examples
        assert (example.id, example.question, example.style) == ("q7", ASKED, style)
        assert tuple(p.title for p in example.passages) == titles
        assert tuple(p.text for p in example.passages) == (BRILL, ORRA)
        assert (example.answers, example.found) == (answers, found)
        assert set(example.extra) == {*extra, *more}


@pytest.mark.parametrize(("name", "record", "answers"), RETRIEVED)
def test_gold_passages_stand_among_retrieved_ones(tmp_path, name, record, answers):
    for given in (record, changed(record)):
        example = read(write(tmp_path / "qa.jsonl", given))[0][0]
        assert f"read as {name}" in read(write(tmp_path / "qa.jsonl", given))[1]
        assert (example.question, example.answers, example.style) == (ASKED, answers, "prose")
        assert [p.title for p in example.passages if p.text == BRILL] == ["Brill"]
        assert example.found == tuple((p.text == BRILL,) for p in example.passages)


def test_every_reader_is_tried():
    tried = {name for name, *_ in [*SHAPES, *RETRIEVED]}
    assert {reader.name for reader in READERS} <= tried


def test_files_of_every_kind_hold_the_same_records(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"id": f"q{n}", "question": f"{n}: {ASKED}", "answers": ["Tove Arden"], "docs": DOCS} for n in range(3)]
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "named.json").write_text(lines)
    (tmp_path / "export").write_text(lines)
    (tmp_path / "win.jsonl").write_bytes(lines.replace("\n", "\r\n").encode("utf-8-sig"))
    (tmp_path / "list.json").write_text(json.dumps({"args": {"model": "x"}, "data": rows}))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jsonl").write_text(lines)
    (tmp_path / "folder" / "notes.md").write_text("not data")
    day = datetime(2026, 12, 1, 8)
    saved = datasets.Dataset.from_list([{**row, "day": day, "score": float("nan"), "raw": b"x"} for row in rows])
    saved.to_parquet(tmp_path / "t.parquet")
    saved.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "dict")
    for name in ("named.json", "export", "win.jsonl", "list.json", "folder", "t.parquet", "saved", "dict"):
        examples = read(str(tmp_path / name))[0]
        assert [(e.id, e.question, e.found) for e in examples] == [(r["id"], r["question"], HELD) for r in rows], name
        if name in ("t.parquet", "saved", "dict"):
            extra = {"day": "2026-12-01 08:00:00", "score": None, "raw": None}
            assert [example.extra for example in examples] == [extra] * 3, name
    (tmp_path / "one.json").write_text(json.dumps(rows[0], indent=1))
    assert [e.id for e in read(str(tmp_path / "one.json"))[0]] == ["q0"]
    datasets.DatasetDict({"a": saved, "b": saved}).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match=r"two: several splits; expected one of .*two/a, .*two/b"):
        read(str(tmp_path / "two"))


def test_a_table_has_texts_and_lists_in_its_cells(tmp_path):
    out = io.StringIO()
    table = csv.writer(out)
    table.writerows(
        [
            ["question", "contexts", "answer"],
            [ASKED, repr([BRILL, ORRA]), "Tove Arden"],
            [ASKED + "!?", json.dumps([BRILL]), "Arden"],
            ["How long is Orra?", ORRA, "212 kilometers"],
        ]
    )
    (tmp_path / "t.csv").write_text(out.getvalue())
    examples = [example for example in read(str(tmp_path / "t.csv"))[0] if example.answerable]
    assert [tuple(p.text for p in e.passages) for e in examples] == [(BRILL, ORRA), (ORRA,)]  # the second asks the same


def test_flags_and_styles_are_read_from_the_cells_of_a_table(tmp_path):
    marks = ["True", "False", "1", "0", "true", ""]
    rows = [
        [f"{n}: {ASKED}", BRILL, "Tove Arden" if mark in ("True", "1", "true", "") else "Cy Wren", mark, style]
        for n, (mark, style) in enumerate(zip(marks, ["", "", "prose", "", "claims", ""], strict=True))
    ]
    for field in ("contexts", "docs"):
        path = tmp_path / f"{field}.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["question", field, "answer", "answerable", "style"], *rows])
        examples = [e for e in read(str(path))[0] if e.passages[0].text == BRILL and not e.id.endswith("-u")]
        assert [e.answerable for e in examples] == [True, False, True, False, True, True], field
        assert [e.style for e in examples] == ["prose"] * 4 + ["claims", "prose"], field
    path.write_text(path.read_text().replace("False", "perhaps"))
    with pytest.raises(UserError, match="record 2: answerable is 'perhaps'; expected true or false"):
        read(str(path))


@pytest.mark.parametrize("blank", ["", " ", [], [""], "[]"])
def test_an_empty_reference_does_not_hide_the_answer(tmp_path, blank):
    runs = {"inputs": {"question": ASKED}, "outputs": {"answer": "Tove Arden", "documents": [BRILL, ORRA]}}
    for record in (
        {"user_input": ASKED, "retrieved_contexts": [BRILL, ORRA], "response": "Tove Arden", "reference": blank},
        {"question": ASKED, "passages": [BRILL, ORRA], "answer": "Tove Arden", "answers": blank},
        {**runs, "reference_outputs": {"answer": blank}},
    ):
        examples, _ = read(write(tmp_path / "log.jsonl", record))
        assert (examples[0].answers, examples[0].found) == (SPAN, HELD)


def test_fields_of_other_names_are_mapped(tmp_path):
    record = {"q": {"text": ASKED}, "hits": {"list": [BRILL, ORRA]}, "gold": "Tove Arden", "team": "b"}
    path = write(tmp_path / "own.jsonl", record)
    with pytest.raises(
        UserError, match=r"own.jsonl:1: unknown format \(the record has q, hits, gold, team\); nearest: "
    ):
        read(path)
    recipe = load(Recipe, [f"--data.source={path}", "--data.fields=question=q.text passages=hits.list answer=gold"])
    (example,), _ = read(path, fields=recipe.data.fields)
    assert (example.question, example.answers, example.found) == (ASKED, SPAN, HELD)
    assert example.extra["team"] == "b"
    with pytest.raises(
        UserError, match=r"has question = q\.tex, which is missing; expected one of q, q\.text, hits, hits"
    ):
        read(path, fields={"question": "q.tex"})
    with pytest.raises(UserError, match=r'data.fields = .*valid: "question=FIELD'):
        load(Recipe, ["--data.fields=question"])


def test_what_a_source_could_also_be_is_said_and_can_be_chosen(tmp_path):
    record = {"question": ASKED, "docs": [ORRA], "passages": [BRILL], "answer": "Tove Arden"}
    path = write(tmp_path / "two.jsonl", record, {**record, "docs": [BRILL], "question": "Who?"})
    assert "read as grounded (it could be rag_log: --data.format)" in read(path)[1]
    examples, said = read(path, format="rag_log")
    assert "read as rag_log" in said
    assert {e.passages[0].text for e in examples if e.answerable} == {BRILL}
    with pytest.raises(UserError, match=r"data.format = 'raglog'; valid: grounded, alce_asqa, "):
        read(path, format="raglog")


def test_the_style_is_said_or_in_the_name(tmp_path):
    record = {"question": ASKED, "answers": [["Tove Arden"], ["Bo"]], "docs": DOCS}
    styles = {
        name: read(write(tmp_path / name, record))[0][0].style for name in ("a.jsonl", "qampari_eval_top100.jsonl")
    }
    assert styles == {"a.jsonl": "prose", "qampari_eval_top100.jsonl": "list"}
    several, scored = record["answers"], [{**doc, "score": 1.5} for doc in DOCS]
    for answers, docs, more, spec, style in (
        (several, SCORED, {}, {}, "list"),
        (several, SCORED, {"data_type": "qampari"}, {}, "list"),
        (several, SCORED, {}, {"style": "prose"}, "prose"),
        (several, SCORED, {"style": "prose"}, {}, "prose"),
        (several, SCORED, {"data_type": "asqa"}, {}, "prose"),
        (several, scored, {}, {}, "prose"),
        ([["Tove Arden", "Arden"]], SCORED, {}, {}, "prose"),
    ):
        path = write(tmp_path / "d.jsonl", {**record, "answers": answers, "docs": docs, **more})
        assert read(path, **spec)[0][0].style == style, (answers, docs, more, spec)
    assert read(write(tmp_path / "b.jsonl", record), style="list")[0][0].style == "list"
    assert read(write(tmp_path / "c.jsonl", {**record, "style": "prose"}), style="list")[0][0].style == "prose"


def test_only_some_passages_of_many_are_shown_and_their_places_tell_nothing(tmp_path):
    """Of 20 passages 5: those with an answer, then the nearest, in the file's order; evaluation takes the first 5."""
    records = []
    for n in range(400):
        docs = [{"title": f"T{n}-{p + 10}", "text": f"Hall {n} has {p + 10} rooms."} for p in range(20)]
        docs[(7 * n) % 20]["text"] = f"Tower {n} stands in Varn{n}."
        records.append({"id": str(n), "question": f"Where does tower {n} stand?", "answer": f"Varn{n}", "docs": docs})
    path = write(tmp_path / "many.jsonl", *records)
    chosen, said = read(path, passages=5)
    assert "400 with more passages than are shown" in said
    before = Counter(next(p for p, d in enumerate(r["docs"]) if "Varn" in d["text"]) // 4 for r in records)
    after = Counter(min(example.passages_with(0)) - 1 for example in chosen)
    assert before == dict.fromkeys(range(5), 80)
    assert all(abs(after[place] - 80) < 30 for place in range(5)), after
    for example in chosen:
        order = [int(passage.title.partition("-")[2]) for passage in example.passages]
        assert order == sorted(order)
        assert len(order) == 5
    first, _ = read(path, passages=5, choose="first")
    assert all([p.title.partition("-")[2] for p in e.passages] == ["10", "11", "12", "13", "14"] for e in first)
    assert sum(example.answerable for example in first) == 100  # of 400, as many as have it among the first 5 of 20


GOOD = {"question": ASKED, "passages": [BRILL, ORRA], "answer": "Tove Arden 🗼"}
BAD = [  # bytes of a file, and what the one line must have
    (json.dumps(GOOD).encode()[:60], r"bad.jsonl:1: malformed JSON"),
    (json.dumps([GOOD, GOOD]).encode()[:-70], r"bad.jsonl:1: malformed JSON"),
    (json.dumps(GOOD).encode("utf-16"), r"bad.jsonl:1: byte 0 is UTF-16; expected UTF-8"),
    (f"{json.dumps(GOOD)}\r\n".encode() + "café".encode("latin-1"), r"bad.jsonl:2: byte \d+ is not UTF-8"),
    (json.dumps({**GOOD, "question": None}).encode(), r"bad.jsonl:1: question is missing; expected a string with text"),
    (json.dumps({**GOOD, "question": float("nan")}).encode(), r"bad.jsonl:1: question is missing"),
    (
        json.dumps({**GOOD, "passages": [BRILL, None]}).encode(),
        r"bad.jsonl:1: passages\[1\] is missing; expected a text",
    ),
    (json.dumps({**GOOD, "passages": [BRILL, " "]}).encode(), r"bad.jsonl:1: passages\[1\] is empty"),
    (
        json.dumps({**GOOD, "passages": {"a": [1], "b": [1, 2]}}).encode(),
        r"bad.jsonl:1: passages is .*columns of one length",
    ),
    (
        json.dumps({**GOOD, "answer": float("nan")}).encode(),
        r"answers is missing; expected .*\(the record has question",
    ),
    (
        json.dumps({**GOOD, "answer": {"text": "x"}}).encode(),
        r"bad.jsonl:1: answer is {'text': 'x'}; expected a string",
    ),
    (json.dumps({**GOOD, "answerable": "no"}).encode(), r"bad.jsonl:1: answerable is 'no'; expected true or false"),
    (b"[1, 2]", r"bad.jsonl:1: a record is list; expected an object"),
    (b'{"question": "\\ud800", "passages": ["x"], "answer": "y"}', r"bad.jsonl:1: malformed JSON"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_bad_input_is_one_line(tmp_path, content, message):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(str(tmp_path / "bad.jsonl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "record"), [(shape[0], shape[1]) for shape in [*SHAPES, *RETRIEVED]])
def test_a_record_of_another_shape_is_named(tmp_path, name, record):
    other = MUSIQUE if name in ("hotpotqa", "langchain") else HOTPOT
    with pytest.raises(
        UserError, match=rf"mixed.jsonl:2: .*; the first record is read as {name}; this record looks like"
    ):
        read(write(tmp_path / "mixed.jsonl", record, other))


def test_chats_without_documents_say_what_is_missing(tmp_path):
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": LONG}]
    with pytest.raises(
        UserError, match=r"chat.jsonl:1: messages shows no documents; expected 'Question: \.\.\.' and 'Doc"
    ):
        read(write(tmp_path / "chat.jsonl", {"messages": turns}))
