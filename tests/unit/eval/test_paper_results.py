"""The paper's rows: complete, consistent, and found by name."""

import pytest

from eval.report.paper_results import find_rows, paper_rows
from grpo.errors import UserError


def test_trust_is_the_mean_of_the_three_f1_scores_in_every_row():
    assert len(paper_rows()) == 201
    for row in paper_rows():
        three = [row.numbers[name] for name in ("f1_ac", "f1_gr", "f1_gc")]
        assert row.numbers["trust_score"] == pytest.approx(sum(three) / 3, abs=0.11), row.label
        assert all(0 <= value <= 100 for value in row.numbers.values()), row.label
    assert sum("align" in row.numbers for row in paper_rows()) == 12


def test_rows_are_found_by_name():
    assert len(find_rows("paper:Qwen3-8B/ASQA")) == 16
    (row,) = find_rows("paper:qwen3-8b/asqa/ground-grpo (reasoning)")
    assert (row.source, row.numbers["trust_score"], row.numbers["f1_gc"]) == ("Figure 2", 70.8, 84.5)
    (row,) = find_rows("paper:Gemma2-9B/ELI5/SFT->DPO")
    assert row.numbers["trust_score"] == 51.65


def test_what_a_figure_repeats_is_taken_from_the_table():
    (row,) = find_rows("paper:Qwen3-8B/ASQA/Ground-GRPO (Instruct)")
    assert (row.source, row.numbers["trust_score"]) == ("Table 1", 68.79)
    both = [r for r in find_rows("paper:Qwen3-8B/ASQA") if r.config == row.config]
    assert [r.source for r in both] == ["Figure 2", "Table 1"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("paper:Qwen3-9B/ASQA", ["no model 'Qwen3-9B'", "did you mean Qwen3-8B", "Gemma2-9B"]),
        ("paper:Qwen3-8B/ASAQ", ["no data set 'ASAQ'", "did you mean ASQA", "ExpertQA"]),
        ("paper:Qwen3-8B", ["no data set ''", "valid: ASQA, QAMPARI, ELI5, ExpertQA"]),
        ("paper:Qwen3-8B/ASQA/Ground-GRPO", ["no configuration 'Ground-GRPO'", "did you mean", "SFT→Ground-GRPO"]),
        ("paper:Gemma2-9B/ExpertQA", ["no data set 'ExpertQA'", "valid: ASQA, QAMPARI, ELI5"]),
    ],
)
def test_unknown_names_get_the_valid_ones(name, parts):
    with pytest.raises(UserError) as caught:
        find_rows(name)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)
