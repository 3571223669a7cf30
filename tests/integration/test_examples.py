"""The examples and the benchmark of the rewards run as they are written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.installed import need

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_add_a_reward() -> None:
    out = run("examples/add_a_reward.py")
    totals = [float(line[:5]) for line in out.splitlines() if line[:5].strip().replace(".", "").isdigit()]
    cited, uncited, long, refused = totals
    assert cited > long > refused
    assert cited - uncited == 0.5  # the citation
    assert "brief 1.00, names_a_year 1.00" in out
    assert "'reward_failures/examples.add_a_reward:brief': 0.0" in out


def test_own_curriculum() -> None:
    """What goes on after a break is what would have come without one; the first questions are among the shortest."""
    lines = dict(
        line.split(maxsplit=1) for line in run("examples/own_curriculum.py").splitlines() if "step" not in line
    )
    assert lines["goes"].removeprefix("on ") == lines["resumed"]
    assert len(lines["resumed"].split()) == 4
    assert lines["state"].startswith("{'open': 10, 'batches': 2")


def test_the_benchmark_of_the_rewards_prints_one_line_of_json() -> None:
    (line,) = run("benchmarks/rewards.py").splitlines()
    measured = json.loads(line)
    assert measured["completions"] == 384
    assert 0 < measured["seconds_min"] <= measured["seconds_median"]
    assert 2.0 < measured["mean_reward"] < 5.0  # some are right: the work is that of real answers


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: `make test-gpu` tests on it")
def test_without_a_gpu_its_tests_say_so_and_pass() -> None:
    assert run("benchmarks/gpu.py") == "test-gpu: no NVIDIA GPU here, so nothing was tested\n"


def test_the_tests_for_a_gpu_pass_on_the_cpu() -> None:
    """So that they are not tried for the first time on a GPU that is paid for by the hour."""
    for package in ("deepspeed", "vllm"):
        need(package)
    out = run("benchmarks/gpu.py", "--device", "cpu")
    for engine in ("single", "zero-1", "zero-2", "zero-3", "hf", "vllm"):
        assert f"{engine}: " in out
    assert "FAILED" not in out
    assert "not tried" not in out
