"""`python -m eval.compare`: two runs, a run beside the paper, and what it says to wrong input."""

import json

import pytest

from curriculum.datasets.world import make_world
from eval.compare import HEADLINES, find, main, paired_differences, read_scores, why_unpaired
from eval.predictions import Prediction
from eval.score import score_predictions, write_scores
from grpo.data.text import REFUSAL
from grpo.errors import UserError
from rewards.judges.lexical import LexicalJudge
from rewards.reference_answers import reference_answer

EXAMPLES = make_world(40, seed=1, unanswerable=0.5, styles={"prose": 1.0})


def run(folder, outputs, examples=EXAMPLES):
    """The folder of a run with these answers, scored."""
    folder.mkdir()
    predictions = [Prediction(example, output) for example, output in zip(examples, outputs, strict=True)]
    write_scores(folder / "scores.json", score_predictions(predictions, LexicalJudge(), nli="lexical", resamples=200))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """gold answers everything rightly; shy refuses every question, half of which have an answer."""
    home = tmp_path_factory.mktemp("runs")
    return run(home / "gold", map(reference_answer, EXAMPLES)), run(home / "shy", [REFUSAL] * 40)


def changed(folder, target, change):
    """A copy of the folder's scores.json after `change`."""
    stored = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    change(stored)
    target.write_text(json.dumps(stored), encoding="utf-8")
    return str(target)


def test_two_runs_over_the_same_questions(runs, capsys):
    gold, shy = map(read_scores, runs)
    assert [gold.numbers[name] for name in HEADLINES] == [100, 100, 100, 100, 50]
    assert shy.numbers["f1_gr"] == pytest.approx(100 / 3)  # refusing: precision 1/2, recall 1; answering: 0
    differences = paired_differences(gold, shy)
    assert differences["answered_ratio"] == (-50, pytest.approx(2 / 10_001))
    assert differences["trust_score"][0] == pytest.approx(100 / 9 - 100)
    assert main([str(runs[0]), str(runs[1])]) == 0
    shown = capsys.readouterr().out
    assert "paired bootstrap over 40 questions, 10000 resamples" in shown
    row = next(line for line in shown.splitlines() if "answered_ratio" in line)
    assert all(part in row for part in ("50.00", "-50.00", "0.0002"))


def test_questions_are_paired_by_id_and_not_by_place(runs, tmp_path):
    def backwards(stored):
        stored["items"]["ids"].reverse()
        stored["items"]["rows"].reverse()

    # one answer of 40 is wrong, so that pairing by place would move the p-value
    outputs = [reference_answer(example) for example in EXAMPLES]
    outputs[3] = "Nobody knows [1]."
    near = run(tmp_path / "near", outputs)
    turned = changed(near, tmp_path / "turned.json", backwards)
    gold = read_scores(runs[0])
    assert paired_differences(gold, read_scores(near)) == paired_differences(gold, find(turned)[0])


def test_a_run_against_itself_is_no_difference(runs):
    gold = read_scores(runs[0])
    assert set(paired_differences(gold, gold).values()) == {(0.0, 1.0)}


def test_other_questions_are_not_paired(runs, tmp_path, capsys):
    other = run(tmp_path / "other", [REFUSAL] * 10, make_world(10, seed=2, unanswerable=0.5, styles={"prose": 1.0}))
    assert main([str(runs[0]), str(other)]) == 0
    shown = capsys.readouterr().out
    assert "no p-values: the questions differ, 40 and 10; 50 are in one run only" in shown
    assert "trust_score" in shown


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda stored: stored.pop("items"), "has no scores of single questions"),
        (lambda stored: stored["items"]["columns"].reverse(), "another version of eval.score"),
        (lambda stored: stored["items"]["ids"].__setitem__(0, stored["items"]["ids"][1]), "the same id twice"),
    ],
)
def test_why_there_is_no_p_value(runs, tmp_path, change, reason):
    other = find(changed(runs[1], tmp_path / "other.json", change))[0]
    assert reason in (why_unpaired(read_scores(runs[0]), other) or "")


def test_other_settings_are_said(runs, tmp_path, capsys):
    other = changed(runs[1], tmp_path / "x.json", lambda stored: stored["settings"].update(nli="some/model"))
    assert main([str(runs[0]), other]) == 0
    assert "scored differently: nli = lexical in A, some/model in B" in capsys.readouterr().out


def test_a_run_beside_every_row_of_the_paper(runs, capsys):
    assert main([str(runs[1]), "paper:Qwen3-8B/ExpertQA"]) == 0
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if "paper:Qwen3-8B/ExpertQA/" in line]
    assert len(rows) == 10
    (row,) = [line for line in rows if "SFT→DPO→Ground-GRPO" in line]
    assert "57.40" in row
    assert "-46.29" in row  # 100 / 9 - 57.40
    assert "scored differently: nli = lexical in the run, google/t5_xxl_true_nli_mixture in the paper" in shown


def test_one_row_of_the_paper_stands_side_by_side(runs, capsys):
    assert main(["paper:qwen3-8b/asqa/Ground-GRPO (Reasoning)", str(runs[1])]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "trust_score" in line)
    assert "70.80" in row
    assert "-59.69" in row
    assert "has no scores of single questions" in shown


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda s: s.pop("f1_gc"), ["f1_gc is missing", "trust_score, f1_gr"]),
        (lambda s: s.update(f1_gc="high"), ["numbers.f1_gc", "valid number"]),
        (lambda s: s.update(f1_gc=float("nan")), ["numbers.f1_gc", "finite number"]),
        (lambda s: s.update(settings=[1]), ["no scores", "a folder that holds one"]),
        (lambda s: s["intervals"].update(f1_gc=[1.0]), ["intervals.f1_gc.1", "Field required"]),
        (lambda s: s["items"]["ids"].pop(), ["39 ids and 40 rows", "one row per id"]),
        (lambda s: s["items"]["rows"][6].pop(), ["items", "row 7 has 13 numbers", "expected 14"]),
        (lambda s: s["items"]["rows"][6].__setitem__(0, None), ["items.rows.6.0", "valid number"]),
        (lambda s: s["items"].pop("ids"), ["items.ids", "Field required"]),
    ],
)
def test_damaged_scores_are_one_line(runs, tmp_path, capsys, change, parts):
    file = changed(runs[0], tmp_path / "bad.json", change)
    assert main([file, str(runs[0])]) == 2
    assert_one_line(capsys, "bad.json", *parts)


@pytest.mark.parametrize(
    ("text", "part"), [("{", "no scores"), ("[]", "no scores"), (None, "cannot be read (No such file")]
)
def test_what_is_no_scores_file(runs, tmp_path, capsys, text, part):
    file = tmp_path / "scores.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert main([str(runs[0]), str(tmp_path)]) == 2
    assert_one_line(capsys, str(file), part, "a folder that holds one")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["only-one"], "1 arguments; usage: python -m eval.compare A B"),
        (["paper:Qwen3-8B/ASQA", "paper:Qwen3-4B/ASQA"], "name one configuration"),
        (["paper:Qwen3-8B/ASQA", "paper:Qwen3-5B/ASQA"], "did you mean Qwen3-"),
    ],
)
def test_wrong_arguments(arguments, part, capsys):
    assert main(arguments) == 2
    assert_one_line(capsys, part)


def test_an_evaluation_of_several_styles_names_them(runs, tmp_path):
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "list").symlink_to(runs[0])
    with pytest.raises(UserError, match=r"mixed: expected one of .*mixed/list"):
        read_scores(tmp_path / "mixed")


def assert_one_line(capsys, *parts):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in parts), line
