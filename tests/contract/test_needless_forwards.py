"""What is never computed: counted in calls of the decoder and the tokens it is given."""

from dataclasses import replace

import pytest
import torch

from grpo.losses import make_loss, with_token_weights
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.settings import LossConfig
from tests.helpers.forward_probe import Counted
from tests.helpers.toy import random_batch, tiny_model

ALL, TAUGHT = 8 + 15 + 10, 8 + 10  # model tokens of three groups, and without the one of advantage 0 in the middle


def a_batch():
    batch = random_batch(prompts=(5, 9, 4), sizes=(2, 2, 2), lengths=(4, 1, 6, 2, 5, 3))
    return replace(batch, advantage_B=torch.tensor([1.0, -1.0, 0.0, 0.0, 0.5, -0.5]))


def counted_step(kl=0.0, updates=1):
    """Tokens of every call, of the policy and of the reference, in step 5 of the loop."""
    model, reference = tiny_model(), tiny_model()
    policy = torch_policy(
        model,
        optim=AdamWConfig(),
        total_updates=2,
        token_budget=1000,
        dtype="float32",
        reference=reference if kl else None,
    )
    counts = Counted(model), Counted(reference)
    batch = a_batch().with_fixed_logprobs(policy.logprobs, old=updates > 1, reference=kl > 0)
    for part in batch.minibatches(updates, seed=0):
        loss = make_loss(LossConfig(kl_coef=kl, importance_cap=0.0))
        policy.update(with_token_weights(part, LossConfig(aggregation="token", kl_coef=kl)), loss)
    return [count.calls for count in counts]


@pytest.mark.parametrize(
    ("kl", "policy", "reference"),
    [
        (0.0, [TAUGHT], []),  # the gradient pass alone: no old log-probabilities, no reference, no zero-variance group
        (0.1, [ALL], [ALL]),  # a zero-variance group feels the reference
    ],
)
def test_one_update_is_one_pass(kl, policy, reference):
    assert counted_step(kl=kl) == [policy, reference]


def test_several_updates_cost_one_pass_for_the_old_log_probabilities():
    """Of the groups that are updated on: with kl = 0 not of the one of advantage 0."""
    for kl, tokens in ((0.0, TAUGHT), (0.1, ALL)):
        (old, *passes), reference = counted_step(kl=kl, updates=2)
        assert old == tokens
        assert len(passes) == 2
        assert sum(passes) == tokens
        assert reference == ([ALL] if kl else [])


def test_old_log_probabilities_stand_in_the_rows_that_they_are_of():
    """Advantage 0 have the second group and one row of the first, which is the longest completion."""
    batch = random_batch(prompts=(5, 9, 4), sizes=(2, 2, 2), lengths=(4, 6, 3, 2, 5, 1))
    batch = replace(batch, advantage_B=torch.tensor([1.0, 0.0, 0.0, 0.0, 0.5, -0.5]))
    policy = torch_policy(tiny_model(), optim=AdamWConfig(), total_updates=2, token_budget=1000, dtype="float32")
    fixed = {"old": True, "reference": False}
    old_BC, all_BC = batch.with_fixed_logprobs(policy.logprobs, **fixed).old_logp_BC, policy.logprobs(batch)
    assert old_BC.shape == all_BC.shape == (6, 6)
    assert not old_BC[1:4].any()
    torch.testing.assert_close(old_BC[[0, 4, 5]], all_BC[[0, 4, 5]])
    zero = replace(batch, advantage_B=torch.zeros(6)).with_fixed_logprobs(policy.logprobs, **fixed)
    assert not zero.old_logp_BC.any()


def test_tokens_of_zero_variance_groups_stay_in_the_denominator():
    left = with_token_weights(a_batch(), LossConfig(aggregation="token"))
    assert len(left.group_B) == 4
    assert left.weight_BC is not None
    assert left.weight_BC[left.learn_BC].tolist() == pytest.approx([1 / 21] * 13)
    assert len(with_token_weights(a_batch(), LossConfig(aggregation="token", kl_coef=1.0)).group_B) == 6
