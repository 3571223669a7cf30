"""What a reward gives to answers that one has: records of any label, and the rollouts of a run."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rewards.judges.base import Pair
from rewards.judges.lexical import LexicalJudge
from rewards.score import main, read_groups

DOCS = [{"title": "Mill", "text": "The mill was built in 1846."}, {"title": "Sea", "text": "The sea is salty."}]
RECORD = {"id": "q", "question": "When?", "answers": [["1846"]], "docs": DOCS}
RIGHT, WRONG = "The mill was built in 1846 [1].", "The sea is salty [2]."


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scored(tmp_path: Path, *rows: dict, arguments: tuple[str, ...] = ()) -> list[dict]:
    out = tmp_path / "scores.jsonl"
    assert main([str(lines(tmp_path / "records.jsonl", *rows)), "--out", str(out), *arguments]) == 0
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def test_every_completion_gets_a_line_that_says_why(tmp_path: Path) -> None:
    right, wrong, empty = scored(
        tmp_path, {**RECORD, "completions": [RIGHT, WRONG]}, {**RECORD, "id": "r", "completion": ""}
    )
    assert (right["id"], right["total"], right["answerable"]) == ("q", 3.0, True)  # 2 form, 0.5 right, 0.5 cited
    assert right["statements"] == [
        {"text": RIGHT.replace(" [1]", ""), "cites": [1], "answers": ["1846"], "share": 1.0, "supported": 1.0}
    ]
    assert (wrong["total"], wrong["statements"][0]["answers"]) == (2.0, [])
    assert (empty["id"], empty["total"], empty["flaws"]) == ("r", 1.0, ["empty answer"])


def test_a_claim_without_labels_is_labelled_by_the_judge(tmp_path: Path) -> None:
    claim = {**RECORD, "answers": [["They built the mill in 1846"]], "style": "claims", "completion": RIGHT}
    (row,) = scored(tmp_path, claim)
    assert (row["answerable"], row["total"]) == (True, 3.0)
    (row,) = scored(tmp_path, claim, arguments=("--reward.judge=token_subset",))
    assert (row["answerable"], row["total"]) == (False, 2.0)  # "they" is not in the passage


@pytest.mark.parametrize(
    "more",
    [
        {"style": "claims", "docs": [doc["text"] for doc in DOCS]},
        {"style": "claims", "docs": DOCS[0]["text"]},
        {"data_type": "eli5"},
        {"style": "claims", "docs": [{**DOCS[0], "answers_found": [1]}, DOCS[1]]},
    ],
)
def test_claims_are_labelled_in_every_form_of_a_record(tmp_path: Path, more: dict) -> None:
    claim = {**RECORD, "answers": [["The mill was built in 1846."], ["The mill was built in 1799."]], **more}
    if isinstance(claim["docs"][0], dict) and "answers_found" in claim["docs"][0]:
        claim["answers"] = claim["answers"][:1]
    (row,) = scored(tmp_path, {**claim, "completion": RIGHT})
    assert (row["answerable"], row["total"]) == (True, 3.0)


@pytest.mark.parametrize("docs", [DOCS, [doc["text"] for doc in DOCS], [{**DOCS[0], "answers_found": []}]])
@pytest.mark.parametrize("style", ["prose", "list", "claims"])
def test_a_question_without_answers_needs_no_labels(tmp_path: Path, docs: list, style: str) -> None:
    (row,) = scored(tmp_path, {**RECORD, "answers": [], "docs": docs, "style": style, "completion": RIGHT})
    assert (row["answerable"], row["total"]) == (False, 2.0)


def test_the_judge_labels_all_records_in_one_call(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting(LexicalJudge):
        def entails(self, pairs: Sequence[Pair]) -> list[float]:
            asked.append(len(pairs))
            return super().entails(pairs)

    row = {**RECORD, "style": "claims", "answers": [["The mill was built in 1846."]], "completion": RIGHT}
    other = [{**DOCS[0], "answers_found": [0]}, {"title": "Bay", "text": "The mill was built in 1846."}]
    path = lines(tmp_path / "r.jsonl", row, {**row, "id": "r", "docs": other}, {**row, "id": "s"})
    groups = read_groups(path, style="prose", judge=Counting())
    assert [group.example.found for group in groups] == [((True,), (False,)), ((False,), (True,)), ((True,), (False,))]
    assert asked == [3]  # the third record has the pairs of the first


def test_overrides_and_recipes_count(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[reward]\nrefusal = true\n", encoding="utf-8")
    (row,) = scored(tmp_path, {**RECORD, "completion": RIGHT}, arguments=("--recipe", str(recipe)))
    assert row["total"] == 3.5


def test_the_rollouts_of_a_run_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(tmp_path / "questions.jsonl", {**RECORD, "split": "train"})
    rollout = {"step": 0, "id": "q", "finish": "stop"}
    old = ((RIGHT, 1.0), (WRONG, 2.0)), ((RIGHT, 1.0), (WRONG, 1.0))
    rows = [{**rollout, "step": n, "text": t, "reward": r} for n, group in enumerate(old) for t, r in group]
    lines(tmp_path / "rollouts.jsonl", *rows)
    assert main([str(tmp_path), "--out", str(tmp_path / "scores.jsonl")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 answers to 2 questions, mean reward 2.500" in said
    assert "4 completions, 4 signs changed, 1 zero-variance groups before, 0 after, 2 groups" in said
    assert "always refuse" in said


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**RECORD}, "records.jsonl:1: completion"),
        ({**RECORD, "completions": [RIGHT, None]}, "records.jsonl:1: completion"),
        ({**RECORD, "docs": [], "completion": RIGHT}, "records.jsonl:1: docs"),
    ],
)
def test_a_bad_record_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict, message: str) -> None:
    path = lines(tmp_path / "records.jsonl", row)
    assert main([str(path), "--out", str(tmp_path / "scores.jsonl")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert main([str(path), "--out", str(path)]) == 2
    assert "give another --out" in capsys.readouterr().err


def test_only_earlier_scores_are_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = lines(tmp_path / "records.jsonl", {**RECORD, "completion": RIGHT})
    assert [main([str(records), "--out", str(tmp_path / "scores.jsonl")]) for _ in range(2)] == [0, 0]
    before = records.read_bytes()
    assert main([str(records), "--out", str(records)]) == 2
    assert "records.jsonl is there already and holds no scores; give another --out" in capsys.readouterr().err
    assert records.read_bytes() == before
