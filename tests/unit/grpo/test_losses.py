"""Losses against the oracle's numbers, and the invariances that a plain sum must have."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grpo.losses import (
    Metric,
    clipped_surrogate,
    finalize_metrics,
    kl_estimate,
    make_loss,
    merge_metrics,
    sft_loss,
    token_weights,
    with_token_weights,
)
from grpo.settings import LossConfig
from tests.helpers import golden_losses
from tests.helpers.toy import random_batch

GOLDEN = Path(__file__).parents[2] / "data" / "loss_golden.json"
FIXTURE = json.loads(GOLDEN.read_text(encoding="utf-8"))["fixtures"][0]
CASES = list(FIXTURE["cases"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("split", [(8,), (1,) * 8, (5, 2, 1)])
def test_golden(case, split):
    difference = golden_losses.compare(FIXTURE, case, split=split)
    assert difference.ok, difference


def test_golden_command_reports_and_fails(tmp_path, capsys):
    assert golden_losses.main([str(GOLDEN)]) == 0
    assert capsys.readouterr().out.count("\n") == 1 + len(CASES)
    wrong = json.loads(GOLDEN.read_text(encoding="utf-8"))
    wrong["fixtures"][0]["cases"][CASES[0]]["grad"][0][0] += 2e-5
    (tmp_path / "wrong.json").write_text(json.dumps(wrong), encoding="utf-8")
    assert golden_losses.main([str(tmp_path / "wrong.json")]) == 1
    assert "ABOVE" in capsys.readouterr().out


def test_weights_written_out():
    learn = torch.tensor([[True, True, True], [True, False, False]])
    counts = {"tokens": 4, "sequences": 2, "max_tokens": 5}
    assert token_weights(learn, aggregation="token", **counts).tolist() == [[0.25, 0.25, 0.25], [0.25, 0, 0]]
    assert token_weights(learn, aggregation="sequence", **counts)[0].tolist() == pytest.approx([1 / 6] * 3)
    assert token_weights(learn, aggregation="sequence", **counts)[1].tolist() == [0.5, 0, 0]
    assert token_weights(learn, aggregation="constant", **counts)[0].tolist() == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "value"),
    [
        (1.5, 2.0, None, 2.6),  # up too far: 1.3 * 2
        (1.2, 2.0, None, 2.4),  # inside
        (0.5, 2.0, None, 1.0),  # down with a positive advantage: not clipped
        (0.5, -2.0, None, -1.6),  # down too far: 0.8 * -2
        (5.0, -2.0, None, -10.0),  # up with a negative advantage: unbounded,
        (5.0, -2.0, 3.0, -6.0),  # unless by the dual clip
    ],
)
def test_clip_on_each_side(ratio, advantage, dual, value):
    got = clipped_surrogate(torch.tensor(ratio), torch.tensor(advantage), clip_low=0.2, clip_high=0.3, dual_clip=dual)
    assert float(got) == pytest.approx(value)


def test_kl_estimators():
    """At a log-ratio of ln 2: k1 = .6931, k2 = .2402, k3 = 1/2 - 1 + .6931 = .1931."""
    logp, ref = torch.tensor([-1.0]), torch.tensor([-1.0]) - torch.tensor(2.0).log()
    values = [float(kl_estimate(logp, ref, estimator=k)) for k in ("k1", "k2", "k3")]
    assert values == pytest.approx([0.693147, 0.240227, 0.193147], abs=1e-5)
    random = torch.randn(1000)
    assert float(kl_estimate(random, random.flip(0), estimator="k3").min()) >= 0


def test_on_policy_ratio_is_exactly_one_and_the_gradient_is_reinforce():
    batch = with_token_weights(random_batch(), LossConfig(aggregation="token", kl_coef=1.0), max_tokens=9)
    logp = torch.randn(batch.ids_BC.shape, requires_grad=True)
    loss, stats = make_loss(LossConfig(importance_cap=0.0))(logp, torch.zeros_like(logp), batch)
    loss.backward()
    assert stats["ratio"] == Metric(18, 18)
    assert stats["clip"] == Metric(0, 18)
    expected = -batch.advantage_B[:, None] * batch.weight_BC
    assert torch.allclose(logp.grad, expected, atol=1e-8)


def test_padding_may_hold_nan():
    batch = with_token_weights(random_batch(), LossConfig(aggregation="sequence", kl_coef=1.0), max_tokens=9)
    logp = torch.randn(batch.ids_BC.shape)
    nan_if_nonfinite = torch.where(batch.learn_BC, logp, torch.nan).requires_grad_(True)
    loss, _ = make_loss(LossConfig())(nan_if_nonfinite, nan_if_nonfinite.detach(), batch)
    clean, _ = make_loss(LossConfig())(logp, logp, batch)
    loss.backward()
    assert float(loss.detach()) == float(clean)
    assert torch.isfinite(nan_if_nonfinite.grad).all()


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_dead_rows_are_left_out_exactly(aggregation):
    batch = random_batch()
    batch = replace(batch, advantage_B=torch.tensor([1.0, 0.0, -2.0, 0.0, 0.5]))

    logp = torch.randn(batch.ids_BC.shape)
    kept = with_token_weights(batch, LossConfig(aggregation=aggregation, kl_coef=1.0), max_tokens=9)
    dropped = with_token_weights(batch, LossConfig(aggregation=aggregation), max_tokens=9)
    assert len(dropped.group_B) == 3
    full, _ = make_loss(LossConfig())(logp, logp, kept)
    some = logp[[0, 2, 4]][:, : dropped.ids_BC.shape[1]]
    less, _ = make_loss(LossConfig())(some, some, dropped)
    assert float(less) == pytest.approx(float(full), abs=1e-7)


def test_supervised_loss_is_the_mean_negative_log_likelihood():
    batch = with_token_weights(random_batch(), LossConfig(aggregation="token", kl_coef=1.0), max_tokens=1)
    logp = torch.full(batch.ids_BC.shape, -2.0)
    loss, stats = sft_loss(logp, logp, batch)
    assert float(loss) == pytest.approx(2.0)
    assert finalize_metrics(stats)["nll"] == pytest.approx(2.0)


def test_metrics_add_up_and_maxima_do_not():
    one = {"tokens": Metric(2), "kl": Metric(1.0, 2), "mismatch": Metric(1.0, 2, 3.0)}
    other = {"tokens": Metric(6), "kl": Metric(3.0, 6), "mismatch": Metric(0.0, 6, 1.0), "clip": Metric(0.0, 0.0)}
    total = merge_metrics(merge_metrics({}, one), other)
    assert total["mismatch"] == Metric(1.0, 8, 3.0)
    values = {"tokens": 8, "kl": 0.5, "mismatch": 0.125, "mismatch_max": 3.0, "clip": 0.0}
    assert finalize_metrics(total) == values


@pytest.mark.parametrize(
    ("kind", "clipped"),
    [("grpo", 2 / 4), ("gspo", 2 / 4), ("cispo", None), ("sapo", None)],
)
def test_clip_counts_the_active_side_only(kind, clipped):
    """Of four tokens with ratios 2, 1/2, 2, 1/2 and advantages 1, 1, -1, -1 the first and the last are clipped."""
    batch = random_batch(prompts=(3,) * 4, sizes=(1,) * 4, lengths=(1,) * 4)
    logp_BC = torch.tensor([[2.0], [0.5], [2.0], [0.5]]).log()
    batch = replace(batch, advantage_B=torch.tensor([1.0, 1.0, -1.0, -1.0]), old_logp_BC=torch.zeros(4, 1))
    batch = with_token_weights(batch, LossConfig(aggregation="token"))
    _, metrics = make_loss(LossConfig(type=kind))(logp_BC, torch.zeros(4, 1), batch)
    assert finalize_metrics(metrics).get("clip") == clipped


def test_how_far_the_policy_is_from_the_sampler_by_hand():
    """Half a nat below and above on two of three tokens: k3 is exp(d) - 1 - d of d = logp - sampler."""
    rows = random_batch(prompts=(3,), sizes=(1,), lengths=(3,))
    batch = with_token_weights(rows, LossConfig(aggregation="token", kl_coef=1.0), max_tokens=9)
    logp_BC = batch.sampler_logp_BC + torch.tensor([[0.5, -0.5, 0.0]])
    stats = make_loss(LossConfig())(logp_BC, torch.zeros(1, 3), batch)[1]
    assert finalize_metrics(stats)["approx_kl"] == pytest.approx(
        (math.exp(0.5) - 1.5 + math.exp(-0.5) - 0.5) / 3, rel=1e-5
    )
