"""The log of a step: its rates, and the folder that it is written to."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.update import LOSS, weighed
from grpo.batch import collate
from grpo.errors import UserError
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger, require_new_folder, rollout_rows
from grpo.telemetry.throughput import ThroughputMeter, group_counts, useful_flops
from grpo.types import Completion, Group, Score
from launch.config.model_size import ModelSize
from tests.helpers import toy

SIZES = {"layers": 2, "hidden": 4, "heads": 2, "kv_heads": 1, "head_dim": 3, "intermediate": 5, "vocabulary": 7}
SMALL = ModelSize(parameters=340, tied=False, **SIZES)


def test_a_step_logs_its_tokens_by_the_second_and_its_mfu(tmp_path):
    """A prompt of 5 with completions of 3 and 1, and one of 2 with 4 and 4: 19 distinct tokens, 26 with repeats."""
    groups = [scored_group(5, (3, 1)), scored_group(2, (4, 4))]
    meter, model = ThroughputMeter(shared=True, dims=SMALL, peak=1e6), toy.tiny_model()
    meter.counter.attach(model)
    policy = torch_policy(model, optim=AdamWConfig(), total_updates=1, token_budget=1000, dtype="float32")
    log = RunLogger(tmp_path, name="x", steps=1, console=Console(), project="test", settings={}, meter=meter)
    batch = weighed(collate(groups, torch.tensor([[1.0, -1.0], [0.0, 0.0]])))  # the second group teaches nothing
    with log.step(0) as record:
        record.add_groups(groups)
        with record.timed("update"):
            record.add_update(batch, policy.update(batch, LOSS))
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row["perf/tokens_per_second"] * row["time/step"] == pytest.approx(5 + 4 + 2 + 8)
    assert row["perf/equivalent_per_second"] * row["time/step"] == pytest.approx(10 + 4 + 4 + 8)
    assert (row["perf/sharing"], row["perf/padding"]) == (pytest.approx((5 + 2 + 5) / (5 + 2)), 0)
    wanted = useful_flops(SMALL, group_counts(5, [3, 1]))
    assert row["perf/mfu"] * row["time/update"] == pytest.approx(wanted / 1e6)


def scored_group(prompt, lengths):
    completions = tuple(
        Completion(text="", token_ids=(7,) * length, logprobs=(-1.0,) * length, finish="stop", version=0)
        for length in lengths
    )
    scores = tuple(Score(total=float(place), parts={}) for place in range(len(lengths)))
    return Group(example=toy.example(), prompt_ids=(3,) * prompt, completions=completions, scores=scores)


def test_other_columns_of_a_question_are_in_its_rollouts():
    group = scored_group(2, (1, 1))
    own = replace(group, example=replace(group.example, extra={"user": "u1"}))
    assert [row.get("extra") for row in rollout_rows(0, [group, own])] == [None, None, {"user": "u1"}, {"user": "u1"}]


def test_nothing_is_overwritten(tmp_path):
    folder = tmp_path / "runs" / "a"
    require_new_folder(folder)
    folder.mkdir(parents=True)
    require_new_folder(folder)  # empty: what a kill at the very beginning leaves
    (folder / "metrics.jsonl").touch()
    (tmp_path / "runs" / "a-2").mkdir()
    with pytest.raises(UserError, match=r"not overwritten; a free name: --run\.name=a-3 "):
        require_new_folder(folder)
