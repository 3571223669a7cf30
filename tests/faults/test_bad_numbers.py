"""Numbers that are not finite: the update is skipped, its rows are kept, several in a row end the run, and it can be
replayed."""

import json
import re

import pytest
import torch

from grpo.checkpointing import store
from grpo.config import load
from grpo.distributed.communicator import Communicator
from grpo.errors import NonFiniteError, UserError
from grpo.losses import make_loss, with_token_weights
from grpo.policy.nonfinite import NonFiniteLog, load_rows, save_rows, weights_hash
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.settings import LossConfig, PolicyConfig
from grpo.telemetry.console import Console
from launch import replay
from launch.builders.models import load_model, locate
from launch.config.recipe import Recipe
from launch.runs.run import save_recipe
from tests.helpers.faults import ROOT, TINY, train
from tests.helpers.installed import need
from tests.helpers.toy import deepspeed_policy, random_batch, tiny_model, write_state


def loss(logp, entropy, batch):
    return make_loss(LossConfig(importance_cap=0.0))(logp, entropy, batch)


def step_batch(seed=0, bad=False):
    batch = random_batch(prompts=(5, 9, 3), sizes=(3, 2, 2), lengths=(4, 1, 6, 2, 5, 3, 2), seed=seed)
    if bad:
        batch.advantage_B[4] = float("nan")
    return with_token_weights(batch, LossConfig(aggregation="sequence"), total=lambda _: (23, 7))


def logged(folder, model=None, *, limit=2, **settings):
    settings = {"optim": AdamWConfig(), "total_updates": 9, "token_budget": 20, "dtype": "float32", **settings}
    make = deepspeed_policy if "zero" in settings else torch_policy
    return make(model or tiny_model(), nonfinite=NonFiniteLog(folder=folder, limit=limit), **settings)


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
    with pytest.raises(UserError, match="cannot be read as the rows of an update"):
        load_rows(file)


def test_two_in_a_row_end_the_training_and_one_does_not(tmp_path, caplog):
    policy = logged(tmp_path)
    before = weights_hash(policy.export_weights())
    for bad in (True, False, True):
        stats = policy.update(step_batch(bad=bad), loss)
        assert (stats.get("nonfinite", 0.0), stats["skipped"]) == (float(bad), float(bad))
    assert "mismatch" not in stats  # a NaN there would be taken for a stale sampler
    assert (policy.num_updates, policy.num_steps_applied, policy.num_nonfinite) == (3, 1, 1)
    assert load_rows(tmp_path / "update-000000-rank-0.safetensors")[1]["weights"] == before
    assert len(caplog.messages) == 2
    write_state(policy.snapshot_state(), tmp_path / "state")
    resumed = logged(tmp_path)
    resumed.load_state(tmp_path / "state")
    for each in (policy, resumed):
        with pytest.raises(NonFiniteError, match=r"2 updates in a row were not finite .*launch.replay .*update-000003"):
            each.update(step_batch(bad=True), loss)
        assert (each.num_updates, each.num_steps_applied) == (4, 1)


def test_a_loss_without_a_bad_gradient_is_skipped_too(tmp_path):
    """A constant infinity has the gradient 0: the engine must not step on the rest."""
    policy = logged(tmp_path)
    before = weights_hash(policy.export_weights())

    def infinite(logp, entropy, batch):
        value, stats = loss(logp, entropy, batch)
        return value + float("inf"), stats

    assert policy.update(step_batch(), infinite)["nonfinite"] == 1.0
    assert weights_hash(policy.export_weights()) == before


CONSTANT = {"lr": 1e-2, "schedule": "constant", "warmup_ratio": 0.0}


def checkpoint(policy, folder, step):
    """What `grpo/checkpointing/manager.py` writes, but for what only a run that goes on needs."""
    assert store.create(folder, step, needed=0, reserve=0) == ""
    place, held, digests = store.temp_path(folder, step), policy.snapshot_state(), {}
    for name in held.files(lead=True):
        digests[f"policy/{name}"] = store.write_file(place, f"policy/{name}", *held.contents(name))
    store.write_rank_state(place, 0, {}, digests)
    return store.commit(folder, step, ranks=1, shared={})


def test_rows_are_replayed_in_the_formats_of_their_update(tmp_path, capsys, monkeypatch):
    """Weights that ZeRO holds in bfloat16 beside float32 masters, and bfloat16 products of float32 weights."""
    need("deepspeed")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = load(Recipe, [str(ROOT / name) for name in TINY])
    save_recipe(recipe, tmp_path)
    folder = locate(recipe.model.name, console=Console())
    settings = {"optim": AdamWConfig(**CONSTANT), "token_budget": 4096, "dtype": "bfloat16", "limit": 9}
    in_bf16, in_float32 = (load_model(folder, device="cpu", bf16=bf16) for bf16 in (True, False))
    zero2 = {"zero": PolicyConfig(zero_stage=2), "comm": Communicator()}
    policies = {
        "bfloat16": logged(tmp_path / "bfloat16", in_bf16, **zero2, **settings),
        "float32": logged(tmp_path / "float32", in_float32, **settings),
    }
    for step, (held, policy) in enumerate(policies.items()):
        assert policy.update(step_batch(), loss)["skipped"] == 0.0  # the masters are no bfloat16 numbers any more
        saved = checkpoint(policy, tmp_path / "checkpoints", step)
        policy.update(step_batch(bad=True), loss)
        (rows,) = (tmp_path / held).iterdir()
        assert load_rows(rows)[1]["weights"].startswith(f"{held}-")
        assert replay.main([str(rows), str(saved)]) == 1
        assert "the weights are those of the update" in capsys.readouterr().out
    assert replay.main([str(rows), folder]) == 1
    assert "the weights are OTHERS than those of the update" in capsys.readouterr().out


def test_a_run_that_goes_bad_ends_saved_and_is_replayed(tmp_path, capsys, monkeypatch, fault):
    """Weights of a user's reward at 1e200: advantages without division are beyond float32, every update is infinite."""
    fault("updates that are not finite", steps=0)
    huge = (
        '--reward.weights={"tests.helpers.faults:low_bytes"=1e200}',
        "--loss.advantage=mean",
        "--checkpoint.max_nonfinite_updates=2",
    )
    ended = train(tmp_path, *huge)
    assert ended.code == 1, ended.said
    assert "stopped: 2 updates in a row were not finite" in ended.said
    assert "saved after step 1, " in ended.said
    rows = sorted((tmp_path / "run" / "bad").iterdir())
    assert [file.name for file in rows] == ["update-000000-rank-0.safetensors", "update-000001-rank-0.safetensors"]
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (row["policy/nonfinite"], row["policy/skipped"]) == (1.0, 1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert replay.main([str(rows[0])]) == 1
    said = capsys.readouterr().out
    assert "the weights are those of the update" in said
    assert re.search(r"row \d: its advantage is not finite as it was given", said)
    assert re.search(r"[1-9] of \d micro-batches are not finite", said)
