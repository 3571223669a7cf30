"""`launch/train.py` from the command line to the model folder, on the tiny model; and what it says to wrong input."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.predictions import read_questions
from launch.builders.models import write_tiny_model
from tests.helpers.forked import ROOT, run_program

TINY = ["configs/stage1.toml", "configs/models/tiny.toml"]


SECRETS = {"WANDB_API_KEY": "5ec4e7" * 6 + "5ec4", "HF_TOKEN": "hf_5ec4e75ec4e75ec4e7", "MY_API_KEY": "sk-5ec4e75ec4e7"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def arguments_of(home, *arguments, recipes=TINY):
    return [*recipes, f"--run.folder={home / 'runs'}", *arguments]


def variables(home):
    return {"XDG_CACHE_HOME": str(home / "cache"), "WANDB_MODE": "", "WANDB_API_KEY": "", "WANDB_SILENT": "true"}


def train(home, *arguments, recipes=TINY):
    return run_program("launch.train", arguments_of(home, *arguments, recipes=recipes), **variables(home))


def refused(done, *parts):
    """Exit 2, one line, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in line, line


@pytest.fixture(scope="module")
def stage1(home):
    """The one run that is begun as a user does."""
    command = [sys.executable, "launch/train.py", *arguments_of(home)]
    environment = {**os.environ, **variables(home), "WANDB_MODE": "offline", **SECRETS}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_key_of_the_environment_is_left_behind_and_nobody_else_may_look(home, stage1):
    """In the logs, the recipe, wandb's own files, the models, or on the screen."""
    files = [file for file in (home / "runs").rglob("*") if file.is_file()]
    assert len(files) > 10
    for secret in SECRETS.values():
        assert secret not in stage1
        assert [file for file in files if secret.encode() in file.read_bytes()] == []
    assert {folder.name: oct(folder.stat().st_mode & 0o777) for folder in (home / "runs").iterdir()} == {
        folder.name: "0o700" for folder in (home / "runs").iterdir()
    }


def test_a_run_leaves_everything_behind(home, stage1):
    run = home / "runs" / "stage1-tiny"
    assert stage1.index("batch plan   2 prompts x 4 samples = 8 completions a step") < stage1.index("warm-up ")
    assert "4 held-out questions, percent" in stage1
    assert "reward audit" not in stage1
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [0, 1, 2]
    for name in ("time/rollout", "time/score", "time/update", "time/step", "memory/peak_gb", "reward/total"):
        assert all(name in row for row in metrics)
    for name in ("perf/tokens_per_second", "perf/equivalent_per_second", "group/zero_variance_share"):
        assert all(row[name] >= 0 for row in metrics)
    (warm_up,) = (home / "runs").glob("sft-tiny-*")
    trained = [json.loads(line) for line in (warm_up / "metrics.jsonl").read_text().splitlines()]
    trained += [row for row in metrics if not row["policy/skipped"]]
    assert all(row["perf/mfu"] > 0 and row["perf/sharing"] > 0 and 0 <= row["perf/padding"] < 1 for row in trained)
    rollouts = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert len(rollouts) == 3 * 2 * 4
    notes = [json.loads(line)["note"] for line in (run / "notes.jsonl").read_text().splitlines()]
    assert notes == ["held_out/before", "held_out/after"]
    assert len((run / "held_out.jsonl").read_text().splitlines()) == 2 * 4
    assert list((run / "wandb").glob("offline-run-*"))  # WANDB_MODE is set, so wandb has its copy
    assert {split: len(read_questions(run, split=split)) for split in ("train", "held_out")} == {
        "train": 40,
        "held_out": 4,
    }
    taught = read_questions(warm_up, split="warm_up")
    assert len(taught) == 2 * 2
    assert not all(example.answerable for example in taught.values())
    assert taught.keys() <= {*read_questions(run, split="train"), *read_questions(run, split="warm_up")}
    checked = re.findall(r"targets +\d+ of (\d+) gold answers", stage1)
    assert checked == ["4", "40"]  # those of the warm-up, then those of the run
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    ids = AutoTokenizer.from_pretrained(run / "model")("It was 109.", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()


def test_measured_on_the_way_and_the_best_model_kept(home, stage1):
    done = train(home, "--run.name=watched", "--held_out.every=2", "--held_out.best_by=f1_gr", "--run.steps=4")
    assert done.returncode == 0, done.stdout + done.stderr
    run = home / "runs" / "watched"
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert ["held_out/f1_gr" in row for row in metrics] == [False, True, False, True]
    assert all(0 <= row["trust/trust_score"] <= 100 for row in metrics)
    notes = [json.loads(line) for line in (run / "notes.jsonl").read_text().splitlines()]
    kept = [note for note in notes if note["note"] == "best"]
    best = max((1, 3), key=lambda step: metrics[step]["held_out/f1_gr"])  # the first of equals
    assert kept[-1] == {
        "note": "best",
        "step": best,
        "f1_gr": metrics[best]["held_out/f1_gr"],
        "model": f"best-step-{best + 1}",
    }
    assert [path.name for path in run.glob("best-*")] == [f"best-step-{best + 1}"]
    assert AutoModelForCausalLM.from_pretrained(run / f"best-step-{best + 1}").num_parameters() > 0
    first = (run / "rollouts.jsonl").read_text().splitlines()[:8]
    again = (home / "runs" / "stage1-tiny" / "rollouts.jsonl").read_text().splitlines()
    assert first == again[:8]  # looking on changes nothing (the schedule of four steps does, later)


def test_the_saved_recipe_is_the_whole_run(home, stage1):
    saved = home / "runs" / "stage1-tiny" / "recipe.toml"
    done = train(home, "--run.name=again", recipes=[str(saved)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is there already" in done.stdout  # the warm-up, since nothing that makes it has changed
    first, second = (home / "runs" / name / "rollouts.jsonl" for name in ("stage1-tiny", "again"))
    assert first.read_text() == second.read_text()


def test_an_existing_run_is_not_overwritten(home, stage1):
    before = (home / "runs" / "stage1-tiny" / "metrics.jsonl").read_bytes()
    refused(train(home), "stage1-tiny: this run exists and is not overwritten", "--run.name=stage1-tiny-2")
    refused(train(home, "--run.name=stage1-tiny", recipes=["configs/sft.toml", TINY[1]]), "not overwritten")
    assert (home / "runs" / "stage1-tiny" / "metrics.jsonl").read_bytes() == before


def test_stage_2_goes_on_from_stage_1(home, stage1):
    done = train(home, recipes=["configs/stage2.toml", TINY[1]])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"loading      {home / 'runs' / 'stage1-tiny' / 'model'}" in done.stdout
    assert "refused, unanswerable" in done.stdout
    assert "refusal" in done.stdout


def test_stage_2_without_stage_1(home, tmp_path):
    done = train(home, f"--run.folder={tmp_path}", recipes=["configs/stage2.toml", TINY[1]])
    refused(done, "run `make train-stage1` first", "FROM=FOLDER")


@pytest.mark.parametrize("name", ["warm", ""])
def test_the_warm_up_alone(home, stage1, tmp_path, name):
    """With a name or without, it is measured, and has the weights of a warm-up within a run."""
    done = train(home, f"--run.folder={tmp_path}", f"--run.name={name}", recipes=["configs/sft.toml", TINY[1]])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 held-out questions, percent" in done.stdout
    (made,), (within,) = tmp_path.iterdir(), (home / "runs").glob("sft-tiny-*")  # nothing half made beside it
    assert made.name == (name or within.name)
    weights = [folder / "model" / "model.safetensors" for folder in (made, within)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("tokenizer*", "without a tokenizer"), ("*.safetensors", "without weights"), ("config.json", "no config.json")],
)
def test_half_a_model_folder(home, tmp_path, pattern, message):
    folder = tmp_path / "model"
    write_tiny_model(folder)
    for path in folder.glob(pattern):
        path.unlink()
    refused(train(home, f"--model.name={folder}", "--run.name=x"), str(folder), message)
    assert not (home / "runs" / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--data.source=nowhere.jsonl"], ["nowhere.jsonl"]),
        (["--model.name=embedded:other"], ["embedded:smollm2-135m"]),
        (["--model.name=no-such-folder"], ["no such folder"]),
        (["--model.init_from=no-such-folder"], ["no such folder", "stage1"]),
        (["--sampling.grup_size=4"], ["did you mean sampling.group_size"]),
        (["--model.context=200", "--sft.steps=0"], ["its prompt has", "the limit is 184", "model.context ="]),
        (["--model.context=5000"], ["model.context = 5000", "4096; at most that"]),
        (["--policy.offload=all"], ["policy.zero_stage = 2 does not shard", "policy.zero_stage = 3"]),
        (
            ["--held_out.every=1", "--held_out.unanswerable=1", "--held_out.best_by=grounded"],
            ["held_out.best_by = 'grounded' is not a number of these held-out questions"],
        ),
        (["--held_out.every=1", "--held_out.questions=0"], ["there are none; valid: held_out.every = 0"]),
    ],
)
def test_bad_arguments(home, arguments, parts):
    refused(train(home, "--run.name=v", *arguments), *parts)
    assert not (home / "runs" / "v").exists()


def test_a_bad_data_file(home, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"question": "Who?"', encoding="utf-8")
    refused(train(home, f"--data.source={tmp_path / 'data.jsonl'}", "--run.name=z"), "data.jsonl:1", "expected")
    assert not (home / "runs" / "z").exists()


def test_a_file_without_unanswerable_questions(home, tmp_path):
    """Everything is answerable, under one title: the warm-up makes its refusals itself, and the run goes through."""

    def row(n):
        docs = [{"title": "T", "text": f"It is number {n}."}]
        return json.dumps({"question": f"What number is {n}?", "answers": [[f"number {n}"]], "docs": docs})

    (tmp_path / "mine.jsonl").write_text("\n".join(row(n) for n in range(100, 140)), encoding="utf-8")
    done = train(home, f"--data.source={tmp_path / 'mine.jsonl'}", "--run.name=mine", "--run.steps=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the warm-up shows no refusal" not in done.stdout
    assert (home / "runs" / "mine" / "model" / "config.json").is_file()


def test_a_cut_distribution_is_no_false_alarm(home):
    """top_p 0.5 lifts each of the sampler's probabilities by up to 2: said before, and not taken for stale weights."""
    done = train(home, "--run.name=nucleus", "--sampling.top_p=0.5", "--run.steps=2", "--held_out.questions=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: sampling.top_p = 0.5" in done.stdout
