"""An evaluation from its recipe to the scores, on the tiny model: killed, gone on with, refused; by command too."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from curriculum.datasets.world import make_world
from eval.compare import main as compare
from eval.predictions import read_predictions, read_questions, write_questions
from grpo.config import dump, load
from grpo.data.example import load_examples, to_record
from grpo.data.files import write_jsonl
from grpo.data.text import REFUSAL
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.models import write_tiny_model
from launch.config.recipe import Recipe
from launch.evaluate import evaluation_recipe
from launch.runs.answers import FILE
from launch.runs.evaluation import choose_questions, possible_questions, run_evaluation
from launch.runs.few_shot import choose_demonstrations, with_demonstrations

ROOT = Path(__file__).resolve().parents[2]
TINY = "configs/models/tiny.toml"
# six questions in batches of four, so that the last is not full; one style, so that there is one score
SIX = ["--data.styles={prose=1.0}", "--eval.questions=6", "--eval.max_tokens=12", "--rollout.max_num_seqs=4"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        yield home


def recipe(*arguments):
    return load(Recipe, list(arguments), check=Recipe.check_evaluation)


def evaluate(home, *arguments):
    """Run an evaluation in this process: its folder and what it said."""
    said = io.StringIO()
    asked = evaluation_recipe([TINY, f"--run.folder={home / 'runs'}", *arguments])
    folder = run_evaluation(asked, Console(said))
    return folder, said.getvalue()


def refused(home, *arguments, match):
    with pytest.raises(UserError, match=match) as caught:
        evaluate(home, *arguments)
    assert "\n" not in str(caught.value)


def command(home, *arguments, **variables):
    environment = {**os.environ, **variables, "XDG_CACHE_HOME": str(home / "cache")}
    line = [sys.executable, "launch/evaluate.py", TINY, f"--run.folder={home / 'runs'}", *arguments]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def first(home):
    """An evaluation that nothing has stopped."""
    return evaluate(home, *SIX)


def test_an_evaluation_leaves_everything_behind(home, first):
    folder, said = first
    assert folder == home / "runs" / "eval-tiny-1"
    predictions = read_predictions(folder / "predictions.jsonl", style="prose")
    assert len({prediction.example.id for prediction in predictions}) == 6
    assert all(prediction.output for prediction in predictions)
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert scores["items"]["ids"] == [prediction.example.id for prediction in predictions]
    assert all(0 <= scores[name] <= 100 for name in ("trust_score", "f1_gr", "f1_ac", "f1_gc", "answered_ratio"))
    assert "6 of 6 answered, " in said
    made = json.loads((folder / FILE).read_text(encoding="utf-8").splitlines()[0])["made_with"]
    assert len(made["demonstrations"]["prose"]) == 2
    assert not set(made["demonstrations"]["prose"]) & set(scores["items"]["ids"])
    assert made["dtype"] in ("float32", "bfloat16")
    assert list(read_questions(folder, split="held_out")) == scores["items"]["ids"]


def killed(home, name, keep, torn=0):
    """The folder that an evaluation leaves when it is killed after `keep` batches and `torn` bytes of the next line."""
    folder = home / "runs" / name
    folder.mkdir()
    lines = [*(home / "runs" / "eval-tiny-1" / FILE).read_bytes().splitlines(keepends=True), b""]
    (folder / FILE).write_bytes(b"".join(lines[: 1 + keep]) + lines[1 + keep][:torn])
    return folder


@pytest.mark.parametrize(("keep", "torn"), [(0, 0), (0, 30), (1, 17), (2, 0)])
def test_a_killed_evaluation_resumes_to_the_same_answers(home, first, keep, torn):
    folder = killed(home, f"killed-{keep}-{torn}", keep, torn)
    _, said = evaluate(home, *SIX, f"--run.name={folder.name}")
    assert (f"{min(6, 4 * keep)} of 6 are answered already" in said) == bool(keep)
    for file in (FILE, "predictions.jsonl", "scores.json"):
        assert (folder / file).read_bytes() == (home / "runs" / "eval-tiny-1" / file).read_bytes()


def test_an_evaluation_without_scores_is_only_scored(home, first):
    folder = killed(home, "unscored", 2)
    _, said = evaluate(home, *SIX, "--run.name=unscored", "--eval.reference=true")
    assert "6 of 6 answered," not in said
    assert json.loads((folder / "scores.json").read_text(encoding="utf-8"))["settings"]["reading"] != "default"


def test_answers_of_other_settings_are_refused(home, first):
    folder = killed(home, "other", 1)
    before = (folder / FILE).read_bytes()
    warmer = ("--run.name=other", "--eval.temperature=0.7")
    refused(home, *SIX, *warmer, match=r"made otherwise \(temperature = 0.5 there and 0.7 now\); give another folder")
    (folder / "prompt.txt").write_text("Something else.", encoding="utf-8")
    prompt = f"--model.prompt={folder / 'prompt.txt'}"
    refused(home, *SIX, "--run.name=other", prompt, match=r"made otherwise \(model.prompt = '' there")
    assert (folder / FILE).read_bytes() == before


def test_a_finished_evaluation_and_other_folders_are_not_overwritten(home, first):
    before = (home / "runs" / "eval-tiny-1" / "scores.json").stat().st_mtime_ns
    exists = "this run exists and is not overwritten"
    refused(home, *SIX, "--run.name=eval-tiny-1", match=rf"eval-tiny-1: {exists}; .*--run.name=eval-tiny-1-2")
    assert (home / "runs" / "eval-tiny-1" / "scores.json").stat().st_mtime_ns == before
    (home / "runs" / "training").mkdir()
    (home / "runs" / "training" / "recipe.toml").touch()
    refused(home, *SIX, "--run.name=training", match=exists)
    assert [path.name for path in (home / "runs" / "training").iterdir()] == ["recipe.toml"]


@pytest.fixture(scope="module")
def trained(home):
    """A run of another model and prompt on six questions of a file."""
    run = home / "runs" / "trained"
    write_tiny_model(run / "model", seed=7)
    (run / "prompt.txt").write_text("Cite, or say: {refusal}\n", encoding="utf-8")
    write_jsonl(home / "six.jsonl", map(to_record, make_world(30, seed=1, unanswerable=0.5, styles={"prose": 1.0})))
    (run / "recipe.toml").write_text(dump(recipe(f"--data.source={home / 'six.jsonl'}", "--run.name=trained")))
    return run


@pytest.mark.parametrize("given", ["init_from", "recipe"])
def test_a_run_is_asked_its_own_questions_with_its_prompt_and_no_demonstrations(home, trained, given):
    which = f"--model.init_from={trained}" if given == "init_from" else str(trained / "recipe.toml")
    folder, said = evaluate(home, which, f"--run.name=of-run-{given}", "--eval.max_tokens=4")
    assert f"model        {trained / 'model'}, 0 demonstrations" in said
    assert f"data         {home / 'six.jsonl'}: " in said
    assert (folder / "prompt.txt").read_text(encoding="utf-8") == "Cite, or say: {refusal}\n"
    refused(home, which, "--data.seed=5", match="trained with data.seed = 0; with 5 some of its training questions")


def test_the_questions_of_a_warm_up_are_not_asked_of_its_checkpoint_and_others_are(home, trained):
    """Of the held-out questions of a file that a warm-up has seen all but two of, these two are asked."""
    asked = choose_questions(load_examples(home / "six.jsonl"), 6, seed=0)
    run = home / "runs" / "warmed"
    write_tiny_model(run / "checkpoints" / "step-000001" / "model")
    (run / "recipe.toml").write_text(dump(recipe("--run.name=warmed")))
    write_questions(run, {"held_out": asked[:1], "train": asked[1:3], "warm_up": asked[1:5]})
    write_jsonl(home / "again.jsonl", map(to_record, asked))
    folder, said = evaluate(
        home,
        f"--model.init_from={run / 'checkpoints' / 'step-000001' / 'model'}",
        *(f"--data.source={home / 'again.jsonl'}", "--eval.split=all", "--eval.shots=0", "--eval.questions=2"),
        *("--run.name=of-warm-up", "--eval.max_tokens=4"),
    )
    assert "4 questions were trained on" in said
    assert set(read_questions(folder, split="held_out")) == {asked[0].id, asked[5].id}
    assert list(read_questions(run, split="warm_up")) == [example.id for example in asked[3:5]]  # each question once


def test_without_data_an_evaluation_names_the_choices():
    with pytest.raises(UserError, match=r"no questions to ask; valid: --data.source=FILE .*hub:NAME.* CHECKPOINT="):
        evaluation_recipe(["configs/models/qwen3-8b.toml"])
    assert evaluation_recipe(["configs/models/qwen3-8b.toml", "--data.source=world"]).data.source == "world"
    stage = evaluation_recipe(["configs/stage1.toml", "configs/models/qwen3-8b.toml"])  # a recipe of training will do
    assert stage.data.source != "world"


def test_closed_book_questions_are_scored(home, capsys):
    rows = "problem,answer\n" + "".join(f"Who is number {n}?,Name {n}\n" for n in range(8))
    (home / "closed.csv").write_text(rows, encoding="utf-8")
    source = f"--data.source={home / 'closed.csv'}"
    folder, said = evaluate(
        home, source, "--run.name=closed", "--eval.split=all", "--eval.shots_from=world", "--eval.max_tokens=4"
    )
    assert "0 demonstrations" in said
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert scores["correct"] + scores["not_attempted"] + scores["wrong"] == pytest.approx(100)
    assert compare([str(folder), str(folder)]) == 0
    assert "paired bootstrap over 4 questions" in capsys.readouterr().out


def columns(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["id"] for row in rows], [row["output"] for row in rows]


def test_several_styles_are_scored_one_by_one(home, capsys):
    folder, _ = evaluate(home, "--run.name=mixed", "--eval.questions=30", "--eval.max_tokens=4", "--eval.shots=0")
    shown = capsys.readouterr().out
    asked, _ = columns(folder / "predictions.jsonl")
    scored = []
    for style in ("prose", "list", "claims"):
        assert f"{style} questions" in " ".join(shown.split())
        ids, _ = columns(folder / style / "predictions.jsonl")
        stored = json.loads((folder / style / "scores.json").read_text(encoding="utf-8"))
        assert stored["items"]["ids"] == ids
        scored += ids
    assert sorted(scored) == sorted(asked)
    assert len(scored) == 30
    assert not (folder / "scores.json").exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--eval.unanswerable=0.5"], "eval.unanswerable is now held_out.unanswerable"),
        (
            ["--sampling.max_tokens=9"],
            "does not read sampling.max_tokens; it reads model, eval, run.name",
        ),
        (["--policy.zero-stage=3"], "does not read policy.zero_stage; .* policy.dtype, rollout.engine"),
        (["--data.unanswerable=0.5"], "does not read data.unanswerable"),
        (["--eval.shots=many"], r"eval.shots = 'many': .*valid integer, or 'auto'"),
        (["--eval.split=all"], "leaves none for demonstrations; valid: eval.shots = 0"),
        (["--eval.max_tokens=4096"], "eval.max_tokens = 4096 leaves no room .* at most 4095"),
        (["--model.init_from=nowhere"], "model.init_from = 'nowhere': no such folder; .* a model or run folder"),
        (["--data.held_out=0.0"], "no question of world is held out; .* --eval.split=all"),
        (
            ["--model.context=700", "--eval.max_tokens=12"],
            "the limit is 688 .* eval.max_tokens 12.* or eval.shots below 2$",
        ),
        (["--model.context=300", "--eval.max_tokens=12", "--eval.shots=0"], r"the limit is 288 .*model.context = \d+$"),
        (["--model.context=9000"], "model.context = 9000: .* has positions for 4096; at most that"),
    ],
)
def test_bad_settings(home, arguments, match):
    refused(home, "--run.name=bad", *arguments, match=match)
    assert not (home / "runs" / "bad").exists()


def test_the_command_line_refuses_in_one_line(home):
    done = command(home, WORLD_SIZE="2")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert "an evaluation is one process" in line


def test_the_command_line_ends_with_the_table(home):
    done = command(home, *SIX, "--run.name=by-command", "--eval.questions=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.index("2 of 2 answered") < done.stdout.index("Trust-Score")
    assert (home / "runs" / "by-command" / "scores.json").is_file()


WORLD = make_world(200, seed=3, unanswerable=0.5)


def questions(*overrides):
    asked = recipe(*overrides)
    return choose_questions(
        possible_questions(asked.eval, asked.data, WORLD), asked.eval.questions, seed=asked.data.seed
    )


def demonstrations(asked, pool, *overrides):
    given = recipe(*overrides)
    return choose_demonstrations(given.eval, given.shots, asked, pool)


def test_what_is_asked():
    held_out = questions()
    assert 20 < len(held_out) < 60  # about a fifth
    assert len(questions("--eval.split=all", "--eval.shots=0")) == 200
    some = questions("--eval.questions=10")
    assert [example for example in held_out if example in some] == some
    assert len(some) == 10
    assert questions("--eval.questions=10", "--eval.seed=1") == some  # for every seed of answers
    assert questions("--eval.questions=10", "--data.seed=1") != some


def test_demonstrations_are_of_the_same_style_half_refusals_and_never_asked():
    asked = WORLD[:20]
    shown = demonstrations(asked, WORLD, "--eval.shots=4")
    assert set(shown) == {example.style for example in asked}
    for style, examples in shown.items():
        assert [example.style for example in examples] == [style] * 4
        assert sum(example.answerable for example in examples) == 2
        assert not {example.question for example in examples} & {example.question for example in asked}
    assert demonstrations(asked, WORLD, "--eval.shots=4") == shown
    assert demonstrations(asked, WORLD, "--eval.shots=4", "--eval.seed=1") != shown
    assert [len(examples) for examples in demonstrations(asked, [], "--eval.shots=0").values()] == [0] * 3


def test_too_few_demonstrations_are_refused():
    answerable = [example for example in WORLD if example.answerable]
    with pytest.raises(
        UserError, match=r"takes 1 unanswerable \w+ questions besides .* there are 0; valid: --eval.shots=0"
    ):
        demonstrations(WORLD[:20], answerable)


def test_the_text_of_demonstrations():
    refusal = next(example for example in WORLD if not example.answerable)
    text = with_demonstrations("Cite.", [refusal], reasoning=True, refusal=REFUSAL)
    instruction, shot = text.split("\n\n\n")
    assert instruction == "Cite."
    assert shot.startswith("Document [1](Title: ")
    assert f"Question: {refusal.question}" in shot
    assert shot.endswith(f"<answer>\n{REFUSAL}\n</answer>")
    assert with_demonstrations("Cite.", [], reasoning=True, refusal=REFUSAL) == "Cite."


def test_recipes_know_a_trained_model_from_one_as_it_comes():
    assert (recipe().shots, recipe("--model.init_from=stage1").shots, recipe("--eval.shots=0").shots) == (2, 0, 0)
    assert (recipe().eval_max_tokens, recipe("--model.reasoning=true").eval_max_tokens) == (300, 1024)
    assert recipe("--eval.max_tokens=7").eval_max_tokens == 7


def test_the_papers_evaluation_sets(home, first, tmp_path, monkeypatch, capsys):
    """A copy of the four sets: the first 5 of 100 documents, scores for each set, and the paper's rows beside them."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    copy = tmp_path / "copy"
    (copy / "trust_score").mkdir(parents=True)
    named = {"asqa": "qa_pairs", "qampari": "answers", "eli5": "claims", "expertqa": "claims"}
    golds = {"qa_pairs": [{"short_answers": ["Varn"]}], "answers": [["Varn"]], "claims": ["Tower 2 is in Varn."]}
    rows = []
    for name, field in named.items():
        for place in (2, 60):
            docs = [
                {"title": "", "text": f"Tower {n} is in Varn.", "answers_found": [int(n == place)]} for n in range(100)
            ]
            none = dict.fromkeys(golds)
            rows.append({"question": f"{name} {place}?", "docs": docs, **none, field: golds[field]})
    table = datasets.Dataset.from_list(rows)
    lines = ["---", "configs:", "- config_name: trust_score", "  data_files:"]
    for number, name in enumerate(named):
        table.select([2 * number, 2 * number + 1]).to_parquet(copy / "trust_score" / f"{name}_eval.parquet")
        lines += [f"  - split: {name}_eval", f"    path: trust_score/{name}_eval.parquet"]
    (copy / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    trained = home / "runs" / "trained-here"
    (trained / "model").mkdir(parents=True)
    write_tiny_model(trained / "model")
    (trained / "recipe.toml").write_text(dump(recipe("--data.shuffle=true", "--run.name=trained-here")))
    seen = load_examples(home / "runs" / "eval-tiny-1" / "predictions.jsonl")[0]
    write_questions(trained, {"train": [replace(seen, question="ASQA 60")]})
    folder, said = evaluate(
        home,
        *(f"--data.source=trust-score:{copy}", f"--model.init_from={trained}", "--eval.max_tokens=12"),
        *("--model.label=qwen3-8b", "--model.context=4096"),
    )
    assert "1 questions were trained on" in said
    assert sorted(path.parent.name for path in folder.glob("*/scores.json")) == sorted(named)
    shown = read_predictions(folder / "qampari" / "predictions.jsonl", style="list")
    assert [(len(p.example.passages), p.example.answerable) for p in shown] == [(5, True), (5, False)]
    assert len(read_predictions(folder / "asqa" / "predictions.jsonl", style="prose")) == 1
    out = capsys.readouterr().out
    assert "paper:Qwen3-8B/ExpertQA/" in out
    assert "not comparable with the paper's rows:" in out
    assert "scored differently: nli = lexical in the run, google/t5_xxl_true_nli_mixture in the paper" in out
