"""`make` as a user meets it, without running anything heavy."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments):
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_make_alone_lists_the_commands():
    done = make()
    assert done.returncode == 0
    for name in ("setup", "train-stage1", "sft", "eval", "bench", "test", "lint", "smollm2-135m", "qwen3-8b"):
        assert name in done.stdout


@pytest.mark.parametrize("stage", ["train-stage1", "train-stage2", "sft"])
@pytest.mark.parametrize("model", ["smollm2-135m", "tiny", "qwen3-8b", "qwen3-4b", "llama3.1-8b", "r1-llama3.1-8b"])
def test_every_stage_and_model_resolves(stage, model):
    done = make("-n", stage, f"MODEL={model}")
    assert done.returncode == 0, done.stderr
    recipe = "sft" if stage == "sft" else stage.removeprefix("train-")
    assert f"scripts/train.sh configs/{recipe}.toml configs/models/{model}.toml" in done.stdout


@pytest.mark.parametrize("model", ["smollm2-135m", "qwen3-8b"])
def test_one_command_for_both_stages(model):
    said = " ".join(make("-n", "train", f"MODEL={model}", "SEED=3").stdout.split())
    stages = "configs/stage1.toml configs/stage2.toml"
    assert f"-m launch.pipeline {stages} -- configs/models/{model}.toml '--run.seed=3'" in said


def test_scripts_see_the_gpus_and_the_port():
    done = make("--no-print-directory", "GPUS=8", "PORT=29511", "--eval=show: ; @echo $$GPUS $$PORT", "show")
    assert done.stdout == "8 29511\n"


@pytest.mark.parametrize("model", ["smollm2-135m", "tiny", "qwen3-8b"])
def test_every_model_can_be_evaluated(model):
    done = make("-n", "eval", f"MODEL={model}", "CHECKPOINT=runs/a b", "DATA=x.json", "SEED=3", "NAME=n")
    assert done.returncode == 0, done.stderr
    overrides = "'--data.source=x.json' '--run.name=n' '--eval.seed=3' '--model.init_from=runs/a b'"
    assert f"launch/evaluate.py configs/models/{model}.toml {overrides}" in done.stdout


def test_bench_keeps_the_peer_out_of_our_environment():
    done = make("-n", "bench", "ARGS=--rounds 5")
    assert done.returncode == 0, done.stderr
    assert ".venv/bin/python -m benchmarks.bench --rounds 5" in done.stdout
    requirements = (ROOT / "benchmarks" / "trl-requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in requirements if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^ ;]*", pin) for pin in pins)
    assert {pin.split("==")[0] for pin in pins} >= {"trl", "transformers", "accelerate", "datasets"}
    assert not any(pin.lower().startswith(("torch==", "nvidia", "triton")) for pin in pins)


def test_variables_become_overrides():
    done = make("-n", "train-stage1", "DATA=my file.jsonl", "SEED=3", "NAME=x", "FROM=runs/y", "ARGS=--run.steps=2")
    wanted = "'--data.source=my file.jsonl' '--run.name=x' '--run.seed=3' '--model.init_from=runs/y' --run.steps=2"
    assert wanted in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train-stage1", "MODEL=qwen9"], "qwen3-8b"),
        (["eval", "MODEL=qwen9"], "qwen3-8b"),
        (["train-stage9"], "train-stage2"),
    ],
)
def test_a_misspelt_name_stops_and_lists_the_right_ones(arguments, named):
    done = make("-n", *arguments)
    assert done.returncode != 0
    assert named in done.stderr


def test_the_readme_names_only_commands_that_exist():
    targets = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"train-stage1", "test"} <= targets
    for target in sorted(targets):
        assert make("-n", target).returncode == 0, target
