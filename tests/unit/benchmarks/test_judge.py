"""The three forms of file that a judge is measured on, by hand."""

import json

import pytest

from benchmarks.judge import main

LOG = [
    {
        "passages": [{"title": "Mill", "text": "The mill was built in 1846."}],
        "answer": "The mill was built in 1846. It burned.",
        "human": {"answerable": True},
    },
    {
        "passages": [{"title": "Sea", "text": "The sea is salty."}],
        "answer": "The sea is salty.",
        "human": {"answerable": True},
    },
    {"passages": [], "answer": "", "human": {"answerable": False}},
]
SNLI = [
    {"premise": "Two dogs ran.", "hypothesis": "Dogs ran.", "label": "entailment"},
    {"premise": "Two dogs ran.", "hypothesis": "Cats slept.", "label": "contradiction"},
]
CLAIMS = [
    {
        "claims": [
            {"text": "The sea is salty [1].", "evidence": ["The sea is salty."], "support": "Complete"},
            {"text": "The sea is sweet.", "evidence": [], "support": "Missing"},
        ]
    }
]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (LOG, ["own passage 2 of 3", "passage of another 0 of 3", "a number changed 0 of 1"]),
        (SNLI, ["entailment 1 of 1", "contradiction 0 of 1"]),
        (CLAIMS, ["support: Complete 1 of 1"]),
    ],
)
def test_pairs_of_each_form_are_counted(tmp_path, capsys, rows, says):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main([str(tmp_path / "a.jsonl")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert [line for line in says if line not in out] == []


def test_a_judge_that_is_none_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "a.jsonl"), "--nli", "lexcal"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown judge 'lexcal'; valid: lexical, token_subset,")
