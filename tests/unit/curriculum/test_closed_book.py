"""Closed-book data sets, each in its own format, their mixture, and the message of every wrong record."""

import gzip
import json
from collections import Counter

import pytest

from curriculum.datasets import DataSpec
from curriculum.datasets.closed_book import describe_counts, drop_repeated, load_closed_book
from curriculum.mixing import mix
from curriculum.sources import load_source
from grpo.config import load
from grpo.data.example import Example, load_examples, to_record
from grpo.data.files import read_records, write_jsonl
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.data import load_sources
from launch.config.recipe import Recipe, SFTConfig

SIMPLEQA = "metadata,problem,answer\n\"{'topic': 'Sport, old'}\",\"Who won, in\n1912?\",Ada Moss\n{},Who lost?,B. Ode\n"
POPQA = [
    {"id": 7, "question": "What is Ada's occupation?", "obj": "poet", "possible_answers": '["poet", "bard"]'},
    {"id": 8, "question": "In what city was Ada born?", "possible_answers": ["Port Alder"]},
]
SELFAWARE = {
    "dataset_name": "SelfAware",
    "keywords": ["self-knowledge"],
    "example": [
        {"question_id": 1, "question": "Who won?", "answer": ["Moss", "Ada Moss"], "answerable": True, "source": "x"},
        {"question_id": 2, "question": "Why is there luck?", "answer": None, "answerable": False, "source": "y"},
        {"question_id": 3, "question": "Is time kind?", "answer": [], "answerable": False, "source": "y"},
    ],
}
TRIVIAQA = [
    {
        "question": "Who won?",
        "question_id": "tc_1",
        "answer": {"value": "Ada Moss", "aliases": ["Ada Moss", "Moss, Ada"], "normalized_value": "ada moss"},
    }
]
ORIGINAL = {"Version": 1.0, "Data": [{"Question": "Who won?", "Answer": {"Value": "Ada Moss", "Aliases": ["A. Moss"]}}]}
EVOUNA = [
    {"question": "Which band?", "golden_answer": "AC/DC", "answer_fid": "AC/DC", "judge_fid": True, "improper": False},
    {"question": "Which year?", "golden_answer": "1912", "improper": True},
    {"question": "Which letter?", "golden_answer": "A", "improper": False},
]


def write(folder, name, content):
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def tsv(rows):
    return "".join("\t".join(row) + "\n" for row in [("question", "possible_answers"), *rows])


@pytest.mark.parametrize(
    ("name", "content", "source", "expected"),
    [
        ("s.csv.gz", SIMPLEQA, "simpleqa", [("Who won, in\n1912?", ("Ada Moss",)), ("Who lost?", ("B. Ode",))]),
        ("p.json", POPQA, "popqa", [(POPQA[0]["question"], ("poet", "bard")), (POPQA[1]["question"], ("Port Alder",))]),
        ("p.tsv", tsv([("Where?", '"[""Rome"", ""Roma""]"')]), "popqa", [("Where?", ("Rome", "Roma"))]),
        (
            "SelfAware.json.gz",
            SELFAWARE,
            "selfaware",
            [("Who won?", ("Moss", "Ada Moss")), ("Why is there luck?", None), ("Is time kind?", None)],
        ),
        ("t.json", TRIVIAQA, "triviaqa", [("Who won?", ("Ada Moss", "Moss, Ada"))]),
        ("web.json", ORIGINAL, "triviaqa", [("Who won?", ("Ada Moss", "A. Moss"))]),
        ("TQ.json", EVOUNA, "triviaqa", [("Which band?", ("AC", "DC", "AC/DC"))]),
    ],
)
def test_each_source_is_read_by_its_fields(tmp_path, name, content, source, expected):
    path = write(tmp_path, name, content)
    assert load_source(str(path), DataSpec())[0][0].source == source
    examples, dropped = load_closed_book(path)
    assert [(e.question, e.answers[0] if e.answers else None) for e in examples] == expected
    assert {(e.style, e.source, e.passages) for e in examples} == {("closed", source, ())}
    assert [e.answerable for e in examples] == [answers is not None for _, answers in expected]
    left_out = {"marked as improper": 1, "with only answers of punctuation and articles": 1}
    assert dropped == (left_out if name == "TQ.json" else {})
    assert len({e.id for e in examples}) == len(expected)


def test_the_hubs_fields_come_through_datasets(tmp_path, monkeypatch):
    """`datasets` reads a local folder as it reads a hub name; nested answers and missing ones come as on the hub."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = {}
    for name, rows in (("trivia", TRIVIAQA), ("self", SELFAWARE["example"])):
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "test.jsonl").write_text(lines, encoding="utf-8")
        source = f"hub:{tmp_path / name}:test"
        found[name] = [(e.question, e.answers) for e in load_closed_book(source)[0]]
    assert found["trivia"] == [("Who won?", (("Ada Moss", "Moss, Ada"),))]
    assert found["self"][1:] == [("Why is there luck?", ()), ("Is time kind?", ())]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "Q?", "possible_answers": "poet"}, r"record 1: possible_answers is 'poet'; expected a list"),
        ({"question": "Q?", "possible_answers": [1]}, r"possible_answers is \[1\]; expected a list of accepted"),
        ({"question": "Q?", "answerable": True, "answer": "Moss"}, r"answer is 'Moss'; expected a list of accepted"),
        ({"question": "Q?", "answerable": True, "answer": []}, r"answer is empty; expected a list of accepted"),
        ({"question": "Q?", "answerable": "yes", "answer": ["a"]}, r"answerable is 'yes'; expected true or false"),
        ({"question": "Q?", "answerable": False, "answer": ["a"]}, r"answer is \['a'\]; expected null, since"),
        (
            {"question": "Q?", "answer": {"value": "A", "aliases": "B"}},
            r"answer is {'value': .*; expected an object with",
        ),
        ({"question": "Q?", "answer": {"aliases": ["B"]}}, r"answer is {'aliases': .*; expected an object with"),
        ({"problem": "", "answer": "A"}, r"problem is empty; expected a string with text"),
        ({"problem": "Q?"}, r"record 1: answer is missing; expected a string"),
        ({"question": "Q?", "golden_answer": ["A"]}, r"golden_answer is \['A'\]; expected a string"),
        ({"question": "Q?", "text": "A"}, r"not a closed-book question; expected problem \(SimpleQA\), poss"),
    ],
)
def test_a_wrong_record_is_named_in_one_line(tmp_path, record, message):
    with pytest.raises(UserError, match=message) as caught:
        load_closed_book(write(tmp_path, "a.json", [record]))
    assert "\n" not in str(caught.value)


def test_a_wrong_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a.csv, record 2: fewer or more cells than the header; expected 2"):
        list(read_records(write(tmp_path, "a.csv", "problem,answer\nQ?,A\nQ?\n")))
    with pytest.raises(UserError, match=r"b.csv:2: malformed table \(.*\); expected a header and records"):
        list(read_records(write(tmp_path, "b.csv", 'problem,answer\n"Q?"x,A\n')))
    two = {"a": [{"x": 1}], "b": [{"x": 1}]}
    with pytest.raises(UserError, match=r"c.json: dict with a, b at the top; expected a JSON list of records"):
        list(read_records(write(tmp_path, "c.json", two)))


def test_what_another_source_asked_before_is_left_out():
    loaded = [asked_by(name) for name in ("a", "b")]
    kept, again = drop_repeated([*loaded[0], *loaded[1]])
    assert ([e.question for e in kept], again) == (["Who won?", "Why?"], 1)
    assert (
        describe_counts(kept, {"asked before": 1, "marked as improper": 0}) == "1 of a, 1 of b; dropped 1 asked before"
    )


def asked_by(source):
    texts = ["Who won?"] if source == "a" else ["who won", "Why?"]
    form = {"passages": (), "answers": (("x",),), "found": (), "style": "closed", "source": source}
    return [Example(id=str(number), question=text, **form) for number, text in enumerate(texts)]


@pytest.fixture
def sources(tmp_path):
    """40 questions of SimpleQA, 30 of PopQA, 20 of SelfAware of which every other has no answer."""
    table = "problem,answer\n" + "".join(f"Who is s{n}?,Name{n}\n" for n in range(40))
    pop = [{"question": f"Where is p{n}?", "possible_answers": [f"Town{n}"]} for n in range(30)]
    aware = [
        {"question": f"Why a{n}?", "answer": ["Fate"] if n % 2 else None, "answerable": bool(n % 2)} for n in range(20)
    ]
    contents = {"s.csv": table, "p.json": pop, "a.json": aware}
    return [write(tmp_path, name, content) for name, content in contents.items()]


def recipe(sources, *arguments):
    return load(Recipe, [f"--data.source={json.dumps(sources)}", *arguments])


def test_sources_are_mixed_evenly_and_give_what_they_have(sources, capsys):
    examples = load_sources(recipe(sources).data, SFTConfig(), Console())
    chosen = mix(examples, count=30, unanswerable="any", seed=0, key="data.unanswerable")
    assert Counter(e.source for e in chosen) == {"simpleqa": 10, "popqa": 10, "selfaware": 10}
    assert 1 <= sum(not e.answerable for e in chosen) <= 9  # not drawn by that
    more = mix(examples, count=80, unanswerable="any", seed=0, key="data.unanswerable")
    assert Counter(e.source for e in more) == {"simpleqa": 30, "popqa": 30, "selfaware": 20}  # while they last
    half = mix(examples, count=20, unanswerable=0.5, seed=0, key="data.unanswerable")
    assert sum(not e.answerable for e in half) == 10
    weighed = {"simpleqa": 3.0, "selfaware": 1.0}
    some = mix(examples, count=20, unanswerable="any", seed=0, key="data.unanswerable", mixture=weighed)
    assert Counter(e.source for e in some) == {"simpleqa": 15, "selfaware": 5}
    assert "40 of simpleqa" in capsys.readouterr().out


def test_a_question_without_an_answer_survives_a_file(tmp_path, sources):
    examples = load_closed_book(sources[2])[0]
    write_jsonl(tmp_path / "kept.jsonl", map(to_record, examples))
    assert load_examples(tmp_path / "kept.jsonl") == examples
    assert load_source(str(tmp_path / "kept.jsonl"), DataSpec())[0] == examples


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--data.source=[]", r"data.source = \[\]: valid: \"world\", a file, .* or a list of these"),
        ("--data.source=[1]", r"data.source = \[1\]: valid: \"world\""),
        ("--data.unanswerable=some", r"data.unanswerable = 'some': .*(share|any)"),
        ("--held_out.unanswerable=-1", r"held_out.unanswerable = -1: .* greater than or equal to 0, or 'any'"),
    ],
)
def test_wrong_settings(argument, message):
    with pytest.raises(UserError, match=message):
        load(Recipe, [argument])
    assert load(Recipe, ['--data.source=["world"]']).data.source == "world"
