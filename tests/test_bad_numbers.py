"""Numbers that are not finite: the update is skipped, its rows are kept, several in a row end the run, and it can be
replayed."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from grpo.comm import Alone
from grpo.objective import Objective, grpo_loss, weigh
from grpo.policy.guard import Guarded, load_rows, save_rows, weights_hash
from grpo.policy.schedule import Optim
from grpo.policy.single import SinglePolicy
from grpo.types import BadNumbers, InputError
from tests.faults import ROOT, train
from tests.toy import random_batch, tiny_model


def loss(logp, entropy, batch):
    return grpo_loss(logp, entropy, batch, objective=Objective(sampler_cap=None))


def step_batch(seed=0, bad=False):
    batch = random_batch(prompts=(5, 9, 3), sizes=(3, 2, 2), lengths=(4, 1, 6, 2, 5, 3, 2), seed=seed)
    if bad:
        batch.advantage_B[4] = float("nan")
    return weigh(batch, average="sequence", max_tokens=9, tokens=23, sequences=7, drop_dead=True)


def guarded(folder, said, limit=2):
    policy = SinglePolicy(tiny_model(), optim=Optim(), updates=9, token_budget=20, dtype="float32")
    return Guarded(policy, folder=folder, limit=limit, comm=Alone(), tell=said.append)


def test_rows_survive_their_file(tmp_path):
    batch = step_batch(bad=True)
    file = save_rows(batch, tmp_path, "update", {"update": 7})
    again, about = load_rows(file)
    assert about == {"update": 7}
    assert again.prompts == batch.prompts
    for name in ("group_B", "ids_BC", "learn_BC", "advantage_B", "sampler_logp_BC", "weight_BC"):
        assert torch.equal(torch.nan_to_num(getattr(again, name)), torch.nan_to_num(getattr(batch, name))), name
    assert again.ref_logp_BC is None
    assert save_rows(batch, tmp_path, "update", {}).name == "update-2.safetensors"  # nothing is overwritten
    file.write_bytes(b"half")
    with pytest.raises(InputError, match="cannot be read as the rows of an update"):
        load_rows(file)


def test_two_in_a_row_end_the_training_and_one_does_not(tmp_path):
    said = []
    policy = guarded(tmp_path, said)
    before = weights_hash(policy.weights())
    for bad in (True, False, True):
        stats = policy.update(step_batch(bad=bad), loss)
        assert (stats.get("nonfinite", 0.0), stats["skipped"]) == (float(bad), float(bad))
    assert policy.moved == 1
    assert load_rows(tmp_path / "update-000000-rank-0.safetensors")[1]["weights"] == before
    assert len(said) == 2
    assert "mismatch" not in stats  # a NaN there would be taken for a stale sampler
    with pytest.raises(BadNumbers, match=r"2 updates in a row were not finite .*launch.replay .*update-000003-rank-0"):
        policy.update(step_batch(bad=True), loss)
    assert (policy.done, policy.moved) == (4, 1)


def test_a_loss_without_a_bad_gradient_is_skipped_too(tmp_path):
    """A constant infinity has the gradient 0: the engine must not step on the rest."""
    policy = guarded(tmp_path, [])
    before = weights_hash(policy.weights())

    def infinite(logp, entropy, batch):
        value, stats = loss(logp, entropy, batch)
        return value + float("inf"), stats

    assert policy.update(step_batch(), infinite)["nonfinite"] == 1.0
    assert weights_hash(policy.weights()) == before


def replay(home, *arguments):
    command = [sys.executable, "-m", "launch.replay", *map(str, arguments)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(home / "cache")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_run_that_goes_bad_ends_saved_and_is_replayed(tmp_path):
    """Weights of a user's reward at 1e200: advantages without division are beyond float32, every update is infinite."""
    huge = ('--reward.weights={"tests.faults:low_bytes"=1e200}', "--loss.advantage=mean", "--checkpoint.bad_updates=2")
    ended = train(tmp_path, *huge)
    assert ended.code == 1, ended.said
    assert "stopped: 2 updates in a row were not finite" in ended.said
    assert "saved after step 1, " in ended.said
    rows = sorted((tmp_path / "run" / "bad").iterdir())
    assert [file.name for file in rows] == ["update-000000-rank-0.safetensors", "update-000001-rank-0.safetensors"]
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (row["policy/nonfinite"], row["policy/skipped"]) == (1.0, 1.0)
    done = replay(tmp_path, rows[0])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the weights are those of the update" in done.stdout
    assert re.search(r"row \d: its advantage is not finite as it was given", done.stdout)
    assert re.search(r"[1-9] of \d micro-batches are not finite", done.stdout)
