"""Supervised steps: the mean over tokens is the loss, the gold answers are learned, and a resume repeats nothing."""

import json
from types import SimpleNamespace

import pytest
import torch

from grpo.config import load
from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.losses import sft_loss
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.supervised import fit, sft_batch
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger
from grpo.types import Completion, Group
from launch.config.recipe import Recipe
from launch.runs import sft
from tests.helpers.installed import need
from tests.helpers.toy import EOS, example, tiny_model
from tests.helpers.toy_training import EndsWhen, flat_weights


def gold(number):
    ids = (*f"A{number}.".encode(), EOS)
    completion = Completion(text="", token_ids=ids, logprobs=(0.0,) * len(ids), finish="stop", version=-1)
    return Group(example=example(number), prompt_ids=tuple(f"Q{number}:".encode()), completions=(completion,))


def fit_toy(folder, *, steps, policy=None, start=0, callbacks=None):
    folder.mkdir()
    policy = policy or torch_policy(
        tiny_model(),
        optim=AdamWConfig(lr=1e-2, schedule="constant"),
        total_updates=20,
        token_budget=99,
        dtype="float32",
    )
    asked = []

    def batches(step):
        asked.append(step)
        return sft_batch([gold(2 * step % 4), gold((2 * step + 1) % 4)], Communicator())

    with RunLogger(folder, name="toy", steps=steps, console=Console(), project="test", settings={}) as log:
        how = {"steps": steps, "policy": policy, "loss": sft_loss, "comm": Communicator(), "log": log}
        fit(batches, **how, start=start, callbacks=callbacks)
    return policy, asked, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_gold_answers_are_learned(tmp_path):
    _, _, rows = fit_toy(tmp_path / "run", steps=20)
    assert rows[0]["policy/nll"] > 3 > 1 > rows[-1]["policy/nll"]
    assert all(abs(row["policy/loss"] - row["policy/nll"]) < 1e-5 for row in rows)  # the average over tokens
    assert rows[0]["count/completion_tokens"] == rows[0]["policy/tokens"] == 8


def test_a_run_in_two_parts_is_the_whole_run(tmp_path):
    whole, asked, _ = fit_toy(tmp_path / "whole", steps=4)
    seen = []
    ends = EndsWhen(lambda values: seen.append(values) or len(seen) == 2)
    part, first, _ = fit_toy(tmp_path / "first", steps=4, callbacks=ends)
    part, second, _ = fit_toy(tmp_path / "second", steps=4, policy=part, start=2)
    assert first + second == asked == [0, 1, 2, 3]
    assert torch.equal(flat_weights(part), flat_weights(whole))


def test_the_gold_answers_of_a_step_are_shared_equally_by_the_ranks():
    need("deepspeed")
    comm = Communicator()
    comm.world = 3
    run = SimpleNamespace(recipe=load(Recipe, ["--sft.examples_per_step=4"]), comm=comm, console=None)
    with pytest.raises(UserError, match=r"sft.examples_per_step = 4 cannot be shared equally by 3 ranks"):
        sft._train(run, SimpleNamespace(held_out=[]))
