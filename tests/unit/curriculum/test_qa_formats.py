"""The builder on HotpotQA, MuSiQue and RAG logs, with a pool and with a judge; and its command."""

import io
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from curriculum import builder
from curriculum.build import main
from curriculum.builder import build_from_qa
from curriculum.datasets.qa_formats import read_questions
from curriculum.sources import detect_format
from curriculum.transforms import truncate_passage
from grpo.config import load
from grpo.data.example import Passage, load_examples
from grpo.data.text import contains
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.data import load_questions, load_sources
from launch.config.recipe import Recipe, SFTConfig
from rewards.judges.lexical import LexicalJudge
from tests.helpers.records import HOTPOT, LOG, MUSIQUE

POOL = [{"title": f"T{n}", "text": f"Tide number {n} of Orvale was led by nobody."} for n in range(6)]


def write(path: Path, records) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


@pytest.fixture
def pool(tmp_path):
    return write(tmp_path / "pool.json", POOL)


def true_to_text(example):
    return example.found == tuple((contains(p.text, example.answers[0]),) for p in example.passages)


@pytest.mark.parametrize("record", [HOTPOT, MUSIQUE], ids=["hotpot", "musique"])
def test_all_of_the_support_is_shown_and_none_of_it_where_it_is_to_be_refused(tmp_path, pool, record):
    path = write(tmp_path / "q.json", [record])
    assert detect_format(str(path)) is builder
    (with_gold, without), report = build_from_qa(path, passages=4, pool=pool, source="hop")
    titles = [{p.title for p in e.passages} for e in (with_gold, without)]
    assert titles[0] == {"Low Tide", "Orvale", "Quenby", "High Tide"}  # its own distractors come first
    assert titles[1] >= {"Quenby", "High Tide"}
    assert not titles[1] & {"Low Tide", "Orvale"}
    assert (with_gold.answerable, without.answerable) == (True, False)
    assert true_to_text(with_gold)
    assert true_to_text(without)
    assert (report.pool, report.duplicate_passages, with_gold.id) == (10, 0, "hop-000001")
    assert contains(with_gold.passages[min(with_gold.passages_with(0)) - 1].text, ("Ada Quill",))


def test_spellings_of_musique_and_its_own_mark(tmp_path, pool):
    marked = {**MUSIQUE, "question": "Who else?", "answerable": False}
    examples, report = build_from_qa(write(tmp_path / "q.json", [MUSIQUE, marked]), passages=4, pool=pool)
    assert examples[0].answers == (("Ada Quill", "A. Quill"),)
    assert report.dropped == {"marked as unanswerable": 1}


def test_a_log_is_labelled_by_what_its_passages_say(tmp_path, pool):
    lost = {"question": "Who led Quenby?", "answers": ["Cy Wren"], "passages": [{"title": "Q", "text": "Not known."}]}
    path = write(tmp_path / "q.json", [LOG, lost])
    assert [len(asked.gold) for asked in read_questions(path)] == [1, 0]
    examples, report = build_from_qa(path, passages=3, pool=pool, unanswerable=2 / 3)
    assert [e.id for e in examples] == ["nq-000001", "nq-000001-u", "nq-000002-u"]
    with_gold, without, natural = examples
    assert {p.text for p in with_gold.passages} == set(LOG["passages"])
    assert len(with_gold.passages_with(0)) == 2
    assert report.distractors_with_answer == 1
    assert "Quenby was led by Bo Marsh." in {p.text for p in without.passages}
    assert "Not known." in {p.text for p in natural.passages}
    assert all(map(true_to_text, examples))
    with pytest.raises(UserError, match=r"unanswerable = 0.0, but no passage holds one; expected 1, or questions"):
        build_from_qa(write(tmp_path / "l.json", [lost]), passages=3, pool=pool, unanswerable=0.0)


def test_a_question_without_any_form_is_dropped_and_counted(tmp_path):
    """Its passage does not hold its answer and all others do: nothing to answer from, and too little to refuse over."""
    lost = {**LOG, "question": "Who led Quenby?", "passages": ["Not known."]}
    path = write(tmp_path / "q.json", [{**LOG, "passages": LOG["passages"][1:]}, lost])
    examples, report = build_from_qa(path, passages=2, unanswerable=0.0)
    assert (report.read, report.kept, report.dropped) == (2, 1, {"with too few passages for either variant": 1})
    assert (len(examples), report.answerable, report.without_refusal) == (1, 1, 1)
    others = write(tmp_path / "others.json", [{"title": "T", "text": text} for text in LOG["passages"][1:]])
    with pytest.raises(
        UserError, match=r"no question can be used \(\{'with too few passages for either variant': 1\}\)"
    ):
        build_from_qa(write(tmp_path / "r.json", [lost]), passages=2, pool=others)


def test_a_passage_that_a_log_holds_twice_is_shown_once(tmp_path, pool):
    twice = {**LOG, "passages": [*LOG["passages"], LOG["passages"][0].upper()]}
    with_gold, _ = build_from_qa(write(tmp_path / "q.json", [twice]), passages=4, pool=pool)[0]
    assert sum("QUENBY" in p.text.upper() for p in with_gold.passages) == 1
    assert len(with_gold.passages) == 4


def test_duplicates_and_too_much_support_are_dropped_and_counted(tmp_path, pool):
    again = {**HOTPOT, "question": HOTPOT["question"].lower().rstrip("?")}
    path = write(tmp_path / "q.json", [HOTPOT, again])
    assert build_from_qa(path, passages=4, pool=pool)[1].dropped == {"asked before": 1}
    with pytest.raises(UserError, match="'that take more passages than an example has': 1"):
        build_from_qa(write(tmp_path / "r.json", [HOTPOT]), passages=1, pool=pool)


def test_a_judge_must_agree_with_what_is_spelled(tmp_path, pool):
    """The lexical judge wants every word of question and answer: "led" is not in the third passage of the log."""
    path = write(tmp_path / "q.json", [LOG, {**LOG, "question": "Who ruled Orvale?"}])
    examples, report = build_from_qa(path, passages=3, pool=pool, entails=LexicalJudge().entails)
    assert report.dropped == {"with an answer that no passage entails": 1}
    with_gold, without = examples
    held = [with_gold.passages[n - 1].text for n in with_gold.passages_with(0)]
    assert held == ["Orvale was led by Ada Quill."]
    assert not without.answerable


def test_passages_without_an_answer_are_cut_anywhere():
    passage = Passage(title="", text=" ".join(map(str, range(100))))
    starts = {truncate_passage(passage, ("Ada",), 10, random.Random(n)).text.split()[0] for n in range(50)}
    assert len(starts) > 20
    assert all(len(truncate_passage(passage, ("55",), 10, random.Random(n)).text.split()) == 10 for n in range(50))
    assert all("55" in truncate_passage(passage, ("55",), 10, random.Random(n)).text.split() for n in range(50))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "Who?"}, r"record 1: no passages; expected ctxs \(NQ\), context \(HotpotQA\), paragraphs"),
        ({**HOTPOT, "context": [["T", "text"]]}, r"record 1: context\[0\]\[1\] is 'text'; expected a list of pairs"),
        ({**HOTPOT, "supporting_facts": "T"}, r"record 1: supporting_facts is 'T'; expected a list of pairs"),
        ({**MUSIQUE, "answer_aliases": "A"}, r"record 1: answer_aliases is 'A'; expected a list of accepted spellings"),
        ({**MUSIQUE, "paragraphs": [{"title": "T"}]}, r"record 1: paragraphs\[0\].paragraph_text is missing"),
        ({**LOG, "passages": []}, r"record 1: passages is empty; expected a list of strings"),
        (
            {**LOG, "passages": [3]},
            r"record 1: passages\[0\] is 3; expected a list of strings, or of objects with title",
        ),
        ({**LOG, "answer": None}, r"record 1: answer is missing; expected a string"),
        ({**LOG, "answers": [["Ada"]]}, r"record 1: answers\[0\] is \['Ada'\]; expected a list of accepted spellings"),
    ],
)
def test_records_of_the_wrong_shape(tmp_path, record, message):
    with pytest.raises(UserError, match=message) as caught:
        build_from_qa(write(tmp_path / "q.json", [record]))
    assert "\n" not in str(caught.value)


def lost(number):
    """A question that its own passage does not answer, and no other either."""
    return {"question": f"Who led Quenby in {number}?", "answer": "Cy Wren", "passages": [f"Not known of {number}."]}


def questions(recipe):
    return load_questions(recipe.data, recipe.sft, recipe.held_out, Console(io.StringIO()), warm_up=True)


def recipe_on(*paths, **data):
    source = json.dumps([str(path) for path in paths])
    given = [f"--data.{name}={value}" for name, value in data.items()]
    return load(Recipe, [f"--data.source={source}", "--data.passages=2", "--data.max_train=100", *given])


def test_a_recipe_is_given_every_form_that_a_file_has(tmp_path):
    """Of a log's 12 questions 3 have their answer: 3 forms to answer and all 12 to refuse, not as many of each."""
    answered = [{**LOG, "question": f"Who led Orvale in {n}?"} for n in range(3)]
    path = write(tmp_path / "log.json", [*answered, *map(lost, range(9))])
    examples = load_sources(recipe_on(path).data, SFTConfig(), Console(io.StringIO()))
    assert (len(examples), sum(example.answerable for example in examples)) == (15, 3)
    assert {example.source for example in examples} == {"log"}
    natural = questions(recipe_on(path, unanswerable="any", held_out=0.0)).train
    assert len(natural) == 15


def test_a_recipe_for_answers_alone_takes_a_file_in_which_every_passage_holds_them(tmp_path):
    same = [{**LOG, "question": f"Who led Orvale in {n}?", "passages": LOG["passages"][1:]} for n in range(4)]
    path = write(tmp_path / "log.json", same)
    assert len(questions(recipe_on(path, held_out=0.0)).train) == 4


def test_question_answer_files_in_one_recipe_are_told_apart(tmp_path):
    """Two of hops and one of the log to each: by the names of the files, as for other files."""
    hops = [{**HOTPOT, "question": f"{n}: {HOTPOT['question']}"} for n in range(8)]
    logs = [{**LOG, "question": f"Who led Orvale in {n}?"} for n in range(8)]
    paths = [write(tmp_path / f"{name}.json", records) for name, records in (("hotpot", hops), ("logs", logs))]
    recipe = recipe_on(*paths, held_out=0.0, mixture="{hotpot=2,logs=1}")
    train = questions(recipe).train
    assert Counter(example.source for example in train) == {"hotpot": 8, "logs": 4}
    assert len({example.id for example in train}) == 12


def test_the_command_writes_examples_and_a_report(tmp_path, pool, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out.jsonl"
    arguments = [str(write(tmp_path / "q.json", [HOTPOT])), "--out", str(out), "--pool", str(pool), "--source", "hop"]
    assert main([*arguments, "--passages", "4"]) == 0
    examples = load_examples(out)
    assert [e.id for e in examples] == ["hop-000001", "hop-000001-u"]
    assert all(map(true_to_text, examples))
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert (report["read"], report["kept"], report["answerable"], report["unanswerable"]) == (1, 1, 1, 1)
    assert "1 questions, 1 kept (dropped: none)" in capsys.readouterr().out
    assert main([*arguments, "--passages", "4"]) == 2
    assert "out.jsonl exists and is not overwritten" in capsys.readouterr().out
    small = [str(tmp_path / "q.json"), "--out", str(tmp_path / "b.jsonl"), "--passages", "5"]
    assert main(small) == 2
    assert "passages = 5, but it has 4 usable ones; expected at most that or a --pool" in capsys.readouterr().out
    assert main([*small, "--pool", str(pool), "--unanswerable", "1.5"]) == 2
    assert "expected passages >= 1, 0 <= unanswerable <= 1" in capsys.readouterr().out
    assert main([*small, "--pool", str(pool), "--nli", "lexicl"]) == 2
    assert capsys.readouterr().out.startswith("error: ")
