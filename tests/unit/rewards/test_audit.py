"""The audit: an honest policy earns more than every degenerate one, with the exceptions listed here."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from rewards.audit import HONEST, POLICIES, TAGS_ONLY, Row, audit, main, policies_that_beat_honesty, table
from rewards.config import PRESETS, RewardConfig

ROOT = Path(__file__).resolve().parents[3]
CITATIONS = {"cite everything", "cite nothing", "cite another passage", "repeat one sentence"}
COPIES = {"copy a passage", "copy all passages", "run-on copy", "run-on copy per passage"}
BLIND_TO = {  # preset: what it does not judge, so that honesty only ties
    "paper": {"cite everything"},
    "fact": CITATIONS | COPIES | {"gold dump"},  # refusals are not judged either
    "caution": CITATIONS | {"always refuse"},
    "fact_and_caution": CITATIONS,
}
BEATEN_BY = {"paper": {"repeat one sentence"}}


def rows(preset: str, *, reasoning: bool = True) -> dict[str, Row]:
    return {row.policy: row for row in audit(PRESETS[preset], reasoning=reasoning)}


@pytest.mark.parametrize(
    ("preset", "reasoning"), [(p, r) for p in PRESETS for r in (True, False) if r or p != "consistency"]
)
def test_honesty_beats_every_degenerate_policy_but_where_we_say_so(preset: str, reasoning: bool) -> None:
    found = rows(preset, reasoning=reasoning)
    honest = found.pop(HONEST)
    assert set(found) == {*POLICIES, *([TAGS_ONLY] if reasoning else [])} - {HONEST}
    for policy, row in found.items():
        if policy in BEATEN_BY.get(preset, ()):
            assert row.mean > honest.mean, policy
        elif policy in BLIND_TO.get(preset, ()):
            assert row.mean == pytest.approx(honest.mean), policy
        else:
            assert row.mean < honest.mean - 0.05, policy


def test_the_numbers_of_stage_2() -> None:
    """By hand: 2 form + .5 answered + .5 to 1 right + .5 to 1 cited; unanswerable 2 + 1 for the refusal."""
    found = rows("stage2")
    assert (found[HONEST].answerable, found[HONEST].unanswerable) == ((3.5 + 4.5 + 4.5 + 3.5) / 4, 3.0)
    assert found["always refuse"].mean == 2.5
    assert found["never refuse, wrong"].mean == 2.25
    assert found["refuse, then answer"].unanswerable == 2.5
    assert found["cite everything"].answerable == pytest.approx(4.0 - (0.5 + 1 + 1 + 0.5) / 4 * 2 / 3)
    assert (found[TAGS_ONLY].mean, found["empty"].mean) == (1.0, 0.0)
    assert all(row.alone == pytest.approx(row.mean) for row in found.values())


def test_the_papers_own_reward_can_be_gamed_by_repetition_and_needless_citations() -> None:
    paper, ours = rows("paper"), rows("stage2")
    assert paper["repeat one sentence"].answerable == 2.5 + 8 * 1.0
    assert paper["cite everything"].mean == paper[HONEST].mean > ours["cite everything"].mean
    assert paper["refuse, then answer"].unanswerable == 3.0 > ours["refuse, then answer"].unanswerable
    assert paper["copy all passages"].answerable > ours["copy all passages"].answerable


def test_without_the_penalty_a_wrong_citation_costs_nothing() -> None:
    free, paid = rows("no_citation_penalty"), rows("stage2")
    assert free["cite another passage"].mean == free["cite nothing"].mean
    assert paid["cite another passage"].mean < paid["cite nothing"].mean


def test_caution_is_gamed_by_a_model_that_only_refuses() -> None:
    """The slides' drift to NotAttempt: once no answer of a group is right, abstaining earns the full reward."""
    caution, both = rows("caution"), rows("fact_and_caution")
    assert caution["always refuse"].alone == 3.0 > caution[HONEST].alone == 2.5
    assert both["always refuse"].alone == both[HONEST].alone == 3.0
    assert both["always refuse"].mean == 2.5 < both[HONEST].mean == 3.0


def test_custom_rewards_are_left_out() -> None:
    weights = {"nowhere_at_all:f": 9.0, "citation": 2.0}
    honest = audit(RewardConfig(refusal=True, weights=weights, trl_conversational=True), reasoning=True)[0]
    assert (honest.policy, honest.answerable) == (HONEST, 4.0 + 0.75)


def test_the_policies_that_beat_honesty_are_named() -> None:
    assert policies_that_beat_honesty(audit(PRESETS["stage2"], reasoning=True)) == []
    assert policies_that_beat_honesty(audit(PRESETS["paper"], reasoning=False)) == ["repeat one sentence"]
    assert policies_that_beat_honesty(audit(PRESETS["caution"], reasoning=True)) == ["always refuse"]


def test_the_table_fits_and_marks_what_earns_as_much_as_honesty() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(audit(PRESETS["paper"], reasoning=False)))
    shown = console.export_text().splitlines()
    lines = {line.strip()[:20].strip(): line.split()[-1] for line in shown if line.strip()}
    assert not any("…" in line for line in shown)
    assert (lines["repeat one sentence"], lines["cite everything"], lines[HONEST]) == ("beats", "ties", "3.50")


def test_the_command_reads_recipes_as_training_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipes = [str(ROOT / "configs" / name) for name in ("stage2.toml", "models/tiny.toml")]
    (tmp_path / "own.toml").write_text("[reward]\nweights = { 'nowhere_at_all:f' = 1.0 }\n", encoding="utf-8")
    assert main([*recipes, str(tmp_path / "own.toml"), "--model.reasoning=true", "--reward.uncapped_sum=true"]) == 0
    out = capsys.readouterr().out
    assert "left out: nowhere_at_all:f" in " ".join(out.split())
    repeated = next(line.split() for line in out.splitlines() if "repeat one sentence" in line)
    assert repeated[3] == "10.50"  # 2.5 and eight times a right sentence, rightly cited


def test_the_users_own_questions_are_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "The mill was built in 1846. Rye was ground there. The wheel is made of oak. A flood broke the lower floor."
    more = " ".join(
        f"Sentence number {n} of this passage is about bees." for n in ("one", "two", "three", "four", "five")
    )
    docs = [{"title": "Mill", "text": f"{text} {more}"}, {"title": "Sea", "text": "The sea is salty. Ships cross it."}]
    record = {"question": "When?", "answers": [["1846"]], "docs": docs}
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    assert main([str(path), "--reward.refusal=true"]) == 0
    out = capsys.readouterr().out
    assert "1 questions of" in out
    rows = {line.strip()[:22].strip(): line.split() for line in out.splitlines()}
    assert rows[HONEST][1] == "3.50"  # 2 form, 0.5 answered, 0.5 right, 0.5 cited
    assert rows["copy a passage"][3] == "2.94"  # 2.5 + 2 * 0.5 * 4 / 9 statements
    assert rows["always refuse"][2] == "2.00"
    path.write_text("", encoding="utf-8")
    assert main([str(path), "--reward.refusal=true"]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[reward]\nrefuse = true", "r.toml:2: unknown key reward.refuse; did you mean reward.refusal?"),
        ("[reward]\nverifier = 'lexical'", "r.toml:2: reward.verifier is now reward.judge"),
        ("[reward]\n\nweights = { citations = 1.0 }", "r.toml:3: reward: .*no part 'citations'; valid: tag_count"),
        ("[reward]\nconsistency = true", "reward.consistency = true .* model.reasoning = false"),
        ("[model]\nreasoning = 'no thanks'", "r.toml:2: model.reasoning = 'no thanks': .* valid boolean"),
        ("[reward", "r.toml: not TOML: Expected"),
        ("reward = 3", r"r.toml:1: reward is a section: write \[reward\]"),
    ],
)
def test_a_bad_recipe_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    assert main([str(tmp_path / "r.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
