"""The whole loop on a random tiny model: it learns, it is reproducible, and its callbacks end it."""

import json
import math

import pytest
import torch

from tests.helpers.toy_training import EndsWhen, flat_weights, run_toy


def test_the_toy_learns(tmp_path):
    _, metrics = run_toy(tmp_path / "run", steps=40)
    rewards = [row["reward/total"] for row in metrics]
    assert rewards[0] < 0.2
    assert sum(rewards[-5:]) / 5 > 0.8
    taught = [row for row in metrics if not row["policy/skipped"]]
    assert len(taught) > 10
    assert all(row["policy/ratio"] == pytest.approx(1.0, abs=1e-6) for row in taught)
    assert max(row["policy/mismatch"] for row in metrics) < 1e-5
    for name in ("time/rollout", "time/score", "time/update", "memory/peak_gb", "policy/lr"):
        assert all(math.isfinite(row[name]) and row[name] >= 0 for row in metrics), name


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, _ = run_toy(tmp_path / "a", steps=3)
    again, _ = run_toy(tmp_path / "b", steps=3)
    other, _ = run_toy(tmp_path / "c", steps=3, seed=1)
    assert torch.equal(flat_weights(first), flat_weights(again))
    assert not torch.equal(flat_weights(first), flat_weights(other))


def test_several_updates_and_a_reference(tmp_path):
    _, metrics = run_toy(tmp_path / "run", steps=3, updates=2, kl=0.1)
    assert metrics[0]["policy/kl"] >= 0
    assert metrics[-1]["policy/kl"] > 1e-4  # the policy has left the reference
    assert metrics[-1]["policy/ratio"] != 1.0  # the second update is off policy


def test_callbacks_end_the_training_after_a_step(tmp_path):
    seen = []
    ends = EndsWhen(lambda values: seen.append(values["reward/total"]) or len(seen) == 2)
    _, metrics = run_toy(tmp_path / "run", steps=5, callbacks=ends)
    assert [row["reward/total"] for row in metrics] == seen
    assert len(seen) == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 4 * 8  # every completion
    assert {"step", "id", "question", "text", "reward", "reward/low_bytes", "version", "finish"} <= set(rows[0])
