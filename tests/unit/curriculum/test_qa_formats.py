"""The builder on HotpotQA, MuSiQue and RAG logs, with a pool and with a judge; and its command."""

import io
import json
import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from curriculum.build import main
from curriculum.labels import Agreement
from curriculum.transforms import truncate_passage
from grpo.config import load
from grpo.data.example import Passage, load_examples
from grpo.data.text import contains
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.data import check_count, load_questions, load_sources
from launch.config.recipe import Recipe, SFTConfig
from rewards.judges.lexical import LexicalJudge
from rewards.judges.load import LazyJudge
from tests.helpers.built import build_file
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
    (with_gold, without), report = build_file(path, passages=4, pool=pool, source="hop")
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
    examples, report = build_file(write(tmp_path / "q.json", [MUSIQUE, marked]), passages=4, pool=pool)
    assert examples[0].answers == (("Ada Quill", "A. Quill"),)
    assert report.dropped == {"marked as unanswerable, though a passage holds the answer": 1}


def test_a_log_is_labelled_by_what_its_passages_say(tmp_path, pool):
    lost = {"question": "Who led Quenby?", "answers": ["Cy Wren"], "passages": [{"title": "Q", "text": "Not known."}]}
    path = write(tmp_path / "q.json", [LOG, lost])
    examples, report = build_file(path, passages=3, pool=pool)
    assert [e.id for e in examples] == ["nq-000001", "nq-000001-u"]
    with_gold, without = examples
    assert [p.text for p in with_gold.passages] == LOG["passages"]  # as they are
    assert with_gold.passages_with(0) == {2, 3}
    assert (report.distractors_with_answer, report.dropped) == (1, {"with an answer that no passage supports": 1})
    assert "Quenby was led by Bo Marsh." in {p.text for p in without.passages}
    assert all(map(true_to_text, examples))
    marked = {**lost, "answerable": False}
    with pytest.raises(UserError, match=r"unanswerable = 0.0, but no passage holds one; expected 1, or questions"):
        build_file(write(tmp_path / "l.json", [marked]), passages=3, pool=pool, unanswerable=0.0)


def test_a_question_without_any_form_is_dropped_and_counted(tmp_path):
    lost = {**LOG, "question": "Who led Quenby?", "passages": ["Not known."]}
    path = write(tmp_path / "q.json", [{**LOG, "passages": LOG["passages"][1:]}, lost])
    examples, report = build_file(path, passages=2, unanswerable=0.0)
    assert (report.read, report.kept, report.dropped) == (2, 1, {"with an answer that no passage supports": 1})
    assert (len(examples), report.answerable, report.without_refusal) == (1, 1, 1)
    with pytest.raises(UserError, match=r"no question can be used \(1 with an answer that no passage supports\)"):
        build_file(write(tmp_path / "r.json", [lost]), passages=2)


def test_a_passage_that_a_log_holds_twice_is_shown_once(tmp_path, pool):
    twice = {**LOG, "passages": [*LOG["passages"], LOG["passages"][0].upper()]}
    with_gold, _ = build_file(write(tmp_path / "q.json", [twice]), passages=4, pool=pool)[0]
    assert sum("QUENBY" in p.text.upper() for p in with_gold.passages) == 1
    assert len(with_gold.passages) == 3


def test_duplicates_and_too_much_support_are_dropped_and_counted(tmp_path, pool):
    again = {**HOTPOT, "question": HOTPOT["question"].lower().rstrip("?")}
    path = write(tmp_path / "q.json", [HOTPOT, again])
    assert build_file(path, passages=4, pool=pool)[1].dropped == {"asked before": 1}
    with pytest.raises(UserError, match="1 that take more passages than an example has"):
        build_file(write(tmp_path / "r.json", [HOTPOT]), passages=1, pool=pool)


class Led:
    def entails(self, pairs):
        return [float("led" in premise.partition("\n")[2]) for premise, _ in pairs]


def test_a_judge_must_agree_with_what_is_spelled(tmp_path, pool):
    """The question's own words are not asked of the passage: "led" is not in the third one of the log."""
    labelled = [{"text": text, "answers_found": [flag]} for text, flag in zip(LOG["passages"], (0, 1, 0), strict=True)]
    path = write(tmp_path / "q.json", [{**LOG, "passages": None, "docs": labelled}])
    build = partial(build_file, path, passages=3, pool=pool, relabel=True)
    (with_gold, without), report = build()
    assert with_gold.found == ((False,), (True,), (True,))
    assert not without.answerable
    assert report.agreement == Agreement(both=1, judge_only=1, file_only=0, neither=1)
    assert "66.7 % of 3 labels" in str(report.agreement)
    with_gold, _ = build(judge=Led())[0]
    assert with_gold.found == ((False,), (True,), (False,))  # the first has "led" but not the answer


def test_passages_without_an_answer_are_cut_anywhere():
    passage = Passage(title="", text=" ".join(map(str, range(100))))
    starts = {truncate_passage(passage, ("Ada",), 10, random.Random(n)).text.split()[0] for n in range(50)}
    assert len(starts) > 20
    assert all(len(truncate_passage(passage, ("55",), 10, random.Random(n)).text.split()) == 10 for n in range(50))
    assert all("55" in truncate_passage(passage, ("55",), 10, random.Random(n)).text.split() for n in range(50))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "Who?"}, r"record 1: unknown format \(the record has question\); nearest: \w+, which has"),
        (
            {**HOTPOT, "context": [["T", 3]]},
            r"record 1: context\[0\]\[1\] is 3; expected a string with text, or a list",
        ),
        ({**HOTPOT, "supporting_facts": "T"}, r"record 1: supporting_facts is 'T'; expected a list of pairs"),
        ({**MUSIQUE, "answer_aliases": 3}, r"record 1: answer_aliases is 3; expected a string, or a list of accepted"),
        ({**MUSIQUE, "paragraphs": [{"title": "T"}]}, r"record 1: paragraphs\[0\].text is missing"),
        (
            {**HOTPOT, "answer": []},
            r"record 1: no question can be used \(1 with an empty answer, or one of punctuation",
        ),
        ({**LOG, "passages": []}, r"record 1: no question can be used \(1 without passages\); expected an answer that"),
        ({**LOG, "passages": [3]}, r"record 1: passages\[0\] is 3; expected a text, a list of texts, or a list of obj"),
        (
            {**LOG, "answer": None},
            r"record 1: answers is missing; expected a string, .* has question, answer, passages\)",
        ),
        ({**LOG, "answers": [["Ada"]]}, r"record 1: answers\[0\] is \['Ada'\]; expected a string, or a list of accept"),
    ],
)
def test_records_of_the_wrong_shape(tmp_path, record, message):
    with pytest.raises(UserError, match=message) as caught:
        build_file(write(tmp_path / "q.json", [record]))
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
    """Of a log's 13 questions 3 have their answer, 9 are marked as unanswerable, and the answer of one is nowhere."""
    answered = [{**LOG, "question": f"Who led Orvale in {n}?"} for n in range(3)]
    marked = [{**lost(n), "answerable": False} for n in range(9)]
    path = write(tmp_path / "log.json", [*answered, *marked, lost(9)])
    examples = load_sources(recipe_on(path).data, SFTConfig(), Console(io.StringIO()))
    assert (len(examples), sum(example.answerable for example in examples)) == (15, 3)
    assert {example.source for example in examples} == {"log"}
    natural = questions(recipe_on(path, unanswerable="any", held_out=0.0)).train
    assert len(natural) == 15


def test_a_recipe_for_answers_alone_takes_a_file_in_which_every_passage_holds_them(tmp_path):
    same = [{**LOG, "question": f"Who led Orvale in {n}?", "passages": LOG["passages"][1:]} for n in range(4)]
    path = write(tmp_path / "log.json", same)
    out = io.StringIO()
    recipe = recipe_on(path, held_out=0.0)
    data = recipe.data.replace(max_train=40)
    loaded = load_questions(data, recipe.sft, recipe.held_out, Console(out), warm_up=True)
    assert len(loaded.train) == 4
    assert "stage uses" not in out.getvalue()  # some of these may still be too long
    check_count(4, data, Console(out))
    assert "4 of the 40 questions that data.max_train asks for are there, and the stage uses these" in " ".join(
        out.getvalue().split()
    )
    with pytest.raises(UserError, match=r"log.json: 4 of the 41 questions .*; valid: --data.max_train=4, or more data"):
        check_count(4, data.replace(max_train=41), Console(out))
    check_count(40, data, Console(out))
    assert out.getvalue().count("max_train") == 1


def test_the_models_own_wordings_are_refusals_of_a_log_too(tmp_path):
    refused = {**LOG, "question": "Who led Varn?", "answer": "Das steht nirgends."}
    data = f"--data.source={write(tmp_path / 'log.json', [LOG, refused])}"
    for wordings, found in (([], []), (["Das steht nirgends."], [()])):
        recipe = load(Recipe, [data, *(f"--model.refusals={json.dumps(wordings)}" for _ in wordings)])
        examples = load_sources(recipe.data_with_refusals, SFTConfig(), Console(io.StringIO()))
        assert [e.answers for e in examples if e.question == "Who led Varn?"] == found


def test_gold_answers_that_no_source_asks_for_are_an_error(tmp_path):
    path = write(tmp_path / "log.json", [LOG])
    with pytest.raises(UserError, match=r"^data.gold = gold.json, but .*log.json has no chats or prompts .*; expected"):
        questions(recipe_on(path, gold='["gold.json"]'))


def test_a_judge_is_loaded_once_and_only_where_a_sentence_is_asked_of_it(tmp_path):
    """The folder holds no model, and a log with short answers is read all the same."""
    judge = tmp_path / "judge"
    judge.mkdir()
    path = write(tmp_path / "log.json", [LOG])
    assert len(load_sources(recipe_on(path, label_with=judge).data, SFTConfig(), Console(io.StringIO()))) == 1
    loads = []
    lazy = LazyJudge(lambda: loads.append(1) or LexicalJudge())
    assert loads == []
    assert [lazy.entails([("Bo ran.", "Bo ran.")]) for _ in range(2)] == [[1.0]] * 2
    assert loads == [1]


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
    assert "unanswerable = 0.5, but too few passages hold no answer" in capsys.readouterr().out
    assert main([*small, "--pool", str(pool), "--unanswerable", "1.5"]) == 2
    assert "expected passages >= 1, 0 <= unanswerable <= 1" in capsys.readouterr().out
    assert main([*small, "--pool", str(pool), "--label-with", "lexicl"]) == 2
    assert capsys.readouterr().out.startswith("error: ")
