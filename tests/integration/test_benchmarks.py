"""What the benchmarks print and keep, on the tiny model: one line of JSON, ratios within rounds, files that stay."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.bench import OURS, is_ours, job_of, take_rounds, warm_up
from benchmarks.channel import ContenderLost
from benchmarks.report import choose_peer, free_stem, keep, markdown, ratio
from benchmarks.workload import parse_workload

ROOT = Path(__file__).resolve().parents[2]


def update(*arguments):
    command = [sys.executable, "-m", "benchmarks.update", "--model", "tiny", "--threads", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_one_update_is_one_line_of_json():
    shape = ["--prompts", "2", "--group", "4", "--prompt-tokens", "30", "--completion-tokens", "8", "--repeat", "1"]
    done = update(*shape, "--layout", "shared")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert (said["tokens_distinct"], said["tokens_equivalent"]) == (2 * (30 + 4 * 8), 8 * (30 + 8))
    assert said["tokens_computed"] == 2 * (30 + 4 * 7)  # the last token of a completion is predicted, not read
    assert (said["sharing"], said["padding"]) == (pytest.approx(8 * 37 / 116, abs=1e-4), 0)
    assert len(said["seconds_all"]) == 1
    assert said["seconds"] == said["seconds_all"][0] > 0
    assert 0 < said["mfu_needed"] < said["mfu"]
    assert said["peak_bytes"] > 26_816 * 16  # weights, gradients, both of Adam's moments
    assert (said["layout"], said["dtype"], said["device"], said["threads"]) == ("shared", said["dtype"], "cpu", 1)
    assert said["machine"]["versions"]["torch"]


def test_a_model_that_is_not_known_is_one_line_and_exit_2():
    done = update("--model", "qwen9")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: model 'qwen9': no model folder and no known name; valid: ")


ROUNDS = [
    {"ours-hf": {"rollout": 1.0, "update": 2.0, "step": 3.0, "peak_bytes": 2e9, "mfu": 0.5, "mfu_needed": 0.4},
     "trl-8": {"rollout": 2.0, "update": 16.0, "step": 18.0, "peak_bytes": 8e9}},
    {"ours-hf": {"rollout": 1.0, "update": 4.0, "step": 5.0, "peak_bytes": 2e9, "mfu": 0.3, "mfu_needed": 0.2},
     "trl-8": {"rollout": 3.0, "update": 16.0, "step": 20.0, "peak_bytes": 8e9}},
]  # fmt: skip
WARM_UPS = {
    "ours-hf": {"step": 9.0, "peak_bytes": 2e9},
    "trl-4": {"step": 19.5, "peak_bytes": 4e9},
    "trl-8": {"step": 19.0, "peak_bytes": 8e9},
    "trl-16": {"step": 30.0, "peak_bytes": 3e9},
}
RESULT = {
    "date": "2026-01-02",
    "command": "python -m benchmarks.bench --rounds 2",
    "asked": {"model": "tiny", "layers": 2, "threads": 1, "dtype": "float32"},
    "machine": {
        "cpu": "a CPU", "features": ["avx2"], "cores": 2, "memory_gb": 25.3, "gpus": [], "python": "3.11.7",
        "versions": {"torch": "2.13.0"}, "load_average": [0.5, 0.4, 0.3],
    },
    "peer": {"trl": "1.16.0"},
    "shapes": [
        {"workload": "4x8x400+48", "rounds": ROUNDS, "warm_ups": WARM_UPS, "fastest": "trl-8", "leanest": "trl-4"}
    ],
}  # fmt: skip


def test_a_ratio_is_taken_within_its_round():
    assert ratio(ROUNDS, "update", ours="ours-hf", theirs="trl-8") == (6.0, 4.0, 8.0)
    assert ratio(ROUNDS, "rollout", ours="ours-hf", theirs="trl-8") == (2.5, 2.0, 3.0)


class Made:
    """A contender that takes so many steps, then dies."""

    def __init__(self, name, steps=9):
        self.name, self.steps = name, 0 if name == "ours-vllm" else steps

    def step(self):
        if not self.steps:
            raise ContenderLost(f"{self.name} ended with 1: out of memory")
        self.steps -= 1
        return {"rollout": 1.0, "update": 2.0, "step": 3.0, "peak_bytes": 2e9}


def test_one_of_ours_that_dies_is_left_out_with_a_line(capsys):
    running, warmed = warm_up(["ours-vllm", "ours-hf"], Made)
    assert (list(running), list(warmed)) == (["ours-hf"], ["ours-hf"])
    assert "  ours-vllm ended with 1: out of memory; it is left out\n" in capsys.readouterr().err
    with pytest.raises(ContenderLost, match="out of memory"):
        warm_up(["ours-vllm"], Made)


def test_a_contender_that_dies_in_a_round_is_left_out_of_all_rounds():
    running = {"ours-hf": Made("ours-hf"), "trl-4": Made("trl-4", steps=1)}
    rounds = take_rounds(running, 3)
    assert [list(measured) for measured in rounds] == [["ours-hf"]] * 3
    assert list(running) == ["ours-hf"]
    shape = {"workload": "4x8x400+48", "rounds": rounds, "fastest": "", "leanest": ""}
    first = {"rollout": 1.0, "update": 2.0, "step": 3.0, "peak_bytes": 2e9}
    said = markdown(RESULT | {"shapes": [shape | {"warm_ups": {"ours-hf": first, "trl-4": first | {"step": 30.0}}}]})
    assert (
        "trl-4: not there to the end. First steps, which are no rounds: trl-4 30.0 s (rollout 1.0, update 2.0)" in said
    )
    with pytest.raises(ContenderLost):
        take_rounds({"ours-hf": Made("ours-hf", steps=1)}, 2)


def test_the_peer_is_compared_at_its_fastest_and_at_its_leanest_that_is_as_fast():
    assert choose_peer({name: one for name, one in WARM_UPS.items() if name != "ours-hf"}) == ("trl-8", "trl-4")


def test_the_table_has_the_ratios_and_names_the_machine():
    page = markdown(RESULT)
    assert "a CPU (avx2), 2 cores, 25.3 GB; 1 threads, float32; Python 3.11.7, torch 2.13.0, trl 1.16.0" in page
    assert (
        "| ours-hf | 1.00 (1.00-1.00) | 3.00 (2.00-4.00) | 4.00 (3.00-5.00) | 2.00 (2.00-2.00) | 40 % | 30 % |" in page
    )
    assert "| ours-hf | 2.50 (2.00-3.00) | 6.00 (4.00-8.00) | 5.00 (4.00-6.00) | 0.50 |" in page
    assert "trl-4 19.5 s, 4.00 GB; trl-8 19.0 s, 8.00 GB; trl-16 30.0 s, 3.00 GB" in page


def test_no_result_is_overwritten(tmp_path):
    first, again = keep(RESULT, tmp_path, "x"), keep(RESULT, tmp_path, "x")
    assert len({*first, *again}) == 4
    assert all(file.exists() for file in (*first, *again))
    assert json.loads(first[1].read_text()) == json.loads(json.dumps(RESULT))
    assert again[0].stem == f"{first[0].stem}-2" != free_stem(tmp_path, first[0].stem)


def asked(**changes):
    values = {"rounds": 2, "threads": 1, "dtype": "float32", "device": "cpu", "gradient_checkpointing": False}
    values |= {"kv_cache": 1.0, "gpu_share": 0.4}
    return Namespace(**values | changes)


def test_every_contender_is_told_the_same_work():
    workload = parse_workload("2x4x30+8")
    jobs = [job_of(name, workload, asked(), folder="m", vocabulary=257) for name in (*OURS, "trl-2", "trl-4")]
    same = ("folder", "workload", "prompts", "threads", "dtype", "device", "gradient_checkpointing")
    assert all({name: job[name] for name in same} == {name: jobs[0][name] for name in same} for job in jobs)
    assert [len(step) for step in jobs[0]["prompts"]] == [2, 2, 2]  # one step to warm up, two rounds
    assert all(len(prompt) == 30 for step in jobs[0]["prompts"] for prompt in step)
    assert [job.get("micro_batch") for job in jobs] == [None, None, None, 2, 4]
    assert jobs[0]["token_budget"] == 30 + 4 * 8
    assert job_of("ours-hf:124", workload, asked(), folder="m", vocabulary=257)["token_budget"] == 124
    assert [is_ours(name) for name in ("ours-hf", "ours-hf:124", "ours-hf:", "ours-hf:0", "trl-4")] == [1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="a micro-batch of 3 does not divide the 8 completions"):
        job_of("trl-3", workload, asked(), folder="m", vocabulary=257)
