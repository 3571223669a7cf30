"""The matcher beside human judges: agreement by hand on answers that both read alike and differently."""

import json

import pytest

from benchmarks.human_agreement import agreement, counts, main, read_judged

DAEI = {"question": "Who?", "golden_answer": "Ali Daei/Daei", "improper": False}
FAIL = {"question": "When?", "golden_answer": "38", "improper": False}


def judged(record, *pairs):
    systems = ("fid", "gpt35", "chatgpt", "gpt4", "newbing")
    row = dict(record)
    for system, (text, right) in zip(systems, pairs, strict=False):
        row |= {f"answer_{system}": text, f"judge_{system}": right}
    return row


@pytest.fixture
def path(tmp_path):
    """Of 7 judged answers 3 are right for both, 2 wrong for both, 1 right for people only ("Mr. D."), 1 for us only."""
    rows = [
        judged(DAEI, ("Ali Daei", True), ("It was daei!", True), ("Bican", False), ("Mr. D.", True)),
        judged(FAIL, ("In 1938", False), ("a 38-year-old", True), ("38, or 40", False)),
        judged({**DAEI, "improper": True}, ("Bican", True)),
    ]
    (tmp_path / "TQ.json").write_text(json.dumps(rows), encoding="utf-8")
    return str(tmp_path / "TQ.json")


def test_agreement_by_hand(path):
    answers, improper, without = read_judged(path)
    assert (len(answers), improper, without) == (7, 1, 3)
    found = counts(answers)
    assert found.tolist() == [[2, 1, 0, 1], [1, 1, 1, 0]]
    numbers = agreement(found.sum(0))
    assert numbers["agreement"][0] == pytest.approx(100 * 5 / 7)
    chance = (4 * 4 + 3 * 3) / 49  # both say right of 4, and wrong of 3
    assert numbers["kappa"][0] == pytest.approx((5 / 7 - chance) / (1 - chance))


def test_the_command_prints_what_was_counted(path, capsys):
    assert main([path]) == 0
    said = capsys.readouterr().out
    assert said.count("71.43") == 1  # on all answers
    assert "left out: 1 questions marked as improper, 3 answers without a judgement" in said


def test_wrong_files_are_one_line(tmp_path, capsys):
    for rows, message in [
        ([{"question": "Who?", "golden_answer": "Daei"}], "no judged answers; expected answer_... and judge_..."),
        ([judged(DAEI, ("Daei", "yes"))], "record 1: judge_fid is 'yes'; expected true or false"),
        ([judged({**DAEI, "golden_answer": ["Daei"]}, ("Daei", True))], "golden_answer is ['Daei']; expected a string"),
    ]:
        (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
        assert main([str(tmp_path / "a.json")]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith("error: ")
        assert message in line
