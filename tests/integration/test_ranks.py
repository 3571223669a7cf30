"""`deepspeed launch/train.py` with two real ranks on the CPU, from the command line to the model folder."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from eval.online_metrics import OnlineTrustScore
from grpo.config import load
from grpo.errors import UserError
from grpo.settings import PolicyConfig
from grpo.telemetry.console import Console
from launch.builders.policy import check_ranks, resolve_backend
from launch.config.recipe import Recipe
from launch.runs.monitor import HeldOutEvaluator, TrainingMonitor
from launch.runs.run import Run
from rewards.config import RewardConfig
from rewards.judges.lexical import LexicalJudge
from rewards.scorer import RewardScorer
from tests.helpers import toy
from tests.helpers.installed import need
from tests.helpers.many_ranks import free_port, run_ranks
from tests.helpers.scoring import group

ROOT = Path(__file__).resolve().parents[2]


def train_on_two(home, *arguments):
    """What a user types, with the interpreter of this test."""
    need("deepspeed")
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", "--num_accelerators", "2"]
    recipes = ["configs/stage1.toml", "configs/models/tiny.toml", f"--run.folder={home / 'runs'}"]
    done = subprocess.run(
        [*launcher, "--master_port", str(free_port()), "launch/train.py", *recipes, *arguments],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(home / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def test_one_run_of_two_ranks(home):
    """Warm-up, measurements on the way, ZeRO-3 and a reference: one folder, with what both ranks did."""
    more = [
        "--run.steps=2",
        "--policy.zero_stage=3",
        "--loss.kl_coef=0.01",
        "--held_out.questions=3",
        "--held_out.every=2",
    ]
    code, said, errors = train_on_two(home, *more, "--held_out.best_by=f1_gr")
    assert code == 0, said + errors
    assert said.count("2 prompts x 4 samples = 8 completions a step on 2 ranks") == 1
    assert said.count("step 2/2") == 2  # the warm-up's and the run's, each told once
    assert "Traceback" not in said + errors
    run = home / "runs" / "stage1-tiny"
    assert sorted(path.name[:4] for path in (home / "runs").iterdir()) == ["sft-", "stag"]
    metrics = lines(run / "metrics.jsonl")
    assert [(row["step"], row["count/completions"]) for row in metrics] == [(0, 8), (1, 8)]
    rollouts = lines(run / "rollouts.jsonl")
    assert len(rollouts) == 16
    assert len({row["id"] for row in rollouts[:8]}) == 2  # a question of each rank
    assert metrics[0]["reward/total"] == pytest.approx(sum(row["reward"] for row in rollouts[:8]) / 8)
    asked = lines(run / "held_out.jsonl")
    assert [row["moment"] for row in asked] == ["before"] * 3 + ["step 2"] * 3 + ["after"] * 3
    assert len({row["id"] for row in asked}) == 3
    trained = dict(AutoModelForCausalLM.from_pretrained(run / "model").named_parameters())
    best = dict(AutoModelForCausalLM.from_pretrained(run / "best-step-2").named_parameters())
    assert trained.keys() == best.keys()
    assert all((trained[name] == best[name]).all() for name in trained)


def longest(completions, log_metric):
    """A reward that logs the longest completion, but for completions of one letter."""
    length = max(map(len, completions))
    if length > 1:
        log_metric("longest", length)
    return [0.0] * len(completions)


def a_monitored_step(comm, home, lengths):
    """The metrics of two steps; each rank scores a group of its own."""
    recipe = load(Recipe, [f"--run.folder={home / 'runs'}", "--held_out.questions=0"])
    name = f"{longest.__module__}:longest"
    scorer = RewardScorer(RewardConfig(weights={name: 1.0}), reasoning=False, judge=LexicalJudge())
    run = Run(recipe, comm=comm, console=Console())
    held_out = HeldOutEvaluator(run, [], None, OnlineTrustScore(LexicalJudge(), reasoning=False))
    monitor = TrainingMonitor(run, None, held_out, scorer=scorer)
    found = []
    for step, by_rank in enumerate(lengths):
        mine = group(toy.example(), ["a" * by_rank[comm.rank]] * 2)
        scored = replace(mine, scores=tuple(scorer([mine])[0]))
        found.append(monitor.on_step(step, comm.gather([scored]), {}).get("reward_log/longest"))
    return found, scorer.pop_metrics()


def test_what_a_reward_logs_is_the_mean_over_ranks(tmp_path):
    ranks = run_ranks(a_monitored_step, tmp_path, [(10, 30), (1, 40), (1, 1)])
    assert [rank.code for rank in ranks] == [0, 0], ranks
    for found, left in (rank.value for rank in ranks):
        assert found == [20.0, 40.0, None]
        assert list(left) == [f"reward_failures/{longest.__module__}:longest"]  # nothing piles up on either rank


def test_what_two_ranks_cannot_do_is_said_once(tmp_path):
    """Both find it; one says it, and neither waits for the other."""
    code, said, errors = train_on_two(tmp_path, "--sampling.prompts_per_step=3")
    assert code == 2
    message = "error: sampling.prompts_per_step = 3 cannot be shared equally by 2 ranks; valid: 2 or 4, or 1 or 3 ranks"
    assert (said + errors).count(message) == 1, said + errors
    assert "Traceback" not in said + errors
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("ranks", "arguments", "message"),
    [
        (2, ["--policy.backend=torch"], 'policy.backend = "torch" is not for 2 ranks; valid: "deepspeed" or "auto"'),
        (1, ["--policy.zero_stage=3", "--policy.backend=torch"], '"torch" is not for policy.zero_stage = 3; valid'),
        (1, ["--policy.offload=optimizer", "--policy.backend=torch"], 'is not for policy.offload = "optimizer"'),
        (2, ["--loss.updates_per_step=3"], "updates_per_step = 3 parts cannot be made of the 2 groups of a rank"),
    ],
)
def test_combinations_that_ranks_refuse(ranks, arguments, message):
    need("deepspeed")
    recipe = load(Recipe, ["--sampling.prompts_per_step=4", *arguments])
    with pytest.raises(UserError, match=re.escape(message)):
        check_ranks(recipe.policy, recipe.sampling, recipe.loss, ranks)


def test_which_engine_the_recipe_gets():
    need("deepspeed")
    assert resolve_backend(PolicyConfig(), 1) == "torch"
    assert resolve_backend(PolicyConfig(), 2) == "deepspeed"
    assert resolve_backend(PolicyConfig(backend="deepspeed"), 1) == "deepspeed"
    assert resolve_backend(PolicyConfig(offload="optimizer"), 1) == "deepspeed"
