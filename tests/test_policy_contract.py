"""What every policy engine promises, tried on the engines that run here."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from grpo.objective import grpo_loss, weigh
from grpo.policy.schedule import Optim, learning_rate
from grpo.policy.single import SinglePolicy, forbid_dropout
from tests.toy import random_batch, tiny_model


def engine(model=None, *, lr=2e-3, budget=1000, layout="shared", updates=3, reference=None, **optim):
    settings = Optim(lr=lr, schedule="constant", warmup=0.0, **optim)
    return SinglePolicy(
        model or tiny_model(),
        optim=settings,
        updates=updates,
        token_budget=budget,
        layout=layout,
        dtype="float32",
        reference=reference,
    )


def loss(logp, entropy, batch):
    from grpo.objective import Objective

    return grpo_loss(logp, entropy, batch, objective=Objective(sampler_cap=None))


def step_batch(seed):
    batch = random_batch(prompts=(5, 9, 3), sizes=(3, 2, 2), lengths=(4, 1, 6, 2, 5, 3, 2), seed=seed)
    return weigh(batch, average="sequence", max_tokens=9, tokens=23, sequences=7, drop_dead=True)


def train(policy, steps=3):
    for seed in range(steps):
        policy.update(step_batch(seed), loss)
    return torch.cat([tensor.flatten() for _, tensor in policy.weights()])


@pytest.mark.parametrize("layout", ["shared", "padded"])
@pytest.mark.parametrize("budget", [1, 20, 1000])
def test_layout_invariance(layout, budget):
    """The same weights after three steps, however the rows are laid out and cut into micro-batches."""
    oracle = train(engine(layout="padded"))
    # Plain SGD would show the gradient; Adam divides by its size, so 1e-5 here is a strict bound on the gradient too.
    assert float((train(engine(layout=layout, budget=budget)) - oracle).abs().max()) < 1e-5
    assert float((train(engine(lr=2.2e-3)) - oracle).abs().max()) > 1e-4  # the test can fail


def test_the_step_follows_the_sum_over_rows():
    """Against a gradient computed by hand: one AdamW step from zero moments moves by lr * sign, where it is large."""
    model, batch = tiny_model(), step_batch(0)
    policy = engine(model, max_grad_norm=1e9)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    by_hand = tiny_model()
    for b in range(len(batch.group_B)):
        prompt, length = batch.prompts[int(batch.group_B[b])], int(batch.lengths_B[b])
        ids = torch.tensor([[*prompt, *batch.ids_BC[b, :length].tolist()]])
        logp = by_hand(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])
        (-(logp.squeeze(-1) * batch.weight_BC[b, :length]).sum() * batch.advantage_B[b]).backward()
    policy.update(batch, loss)
    for old, new, oracle in zip(before, model.parameters(), by_hand.parameters(), strict=True):
        moved, large = (new.detach() - old) / -2e-3, oracle.grad.abs() > 1e-4
        assert torch.allclose(moved[large], oracle.grad[large].sign(), atol=2e-3)


def test_nothing_moves_when_nothing_teaches():
    model = tiny_model()
    policy = engine(model)
    train(policy, steps=1)  # so that Adam has momentum that could move the weights
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    batch = replace(random_batch(), advantage_B=torch.zeros(5))
    stats = policy.update(weigh(batch, average="token", max_tokens=9, tokens=18, sequences=5, drop_dead=True), loss)
    assert stats["skipped"] == 1.0
    assert torch.equal(torch.cat([p.detach().flatten() for p in model.parameters()]), before)


def test_logprobs_and_reference():
    model, batch = tiny_model(), random_batch()
    policy = engine(model, reference=tiny_model(), budget=20)
    before = policy.logprobs(batch)
    assert before.shape == batch.ids_BC.shape
    assert not before[~batch.learn_BC].any()
    assert torch.equal(policy.logprobs(batch, reference=True), before)
    train(policy)
    assert torch.equal(policy.logprobs(batch, reference=True), before)
    assert float((policy.logprobs(batch) - before).abs().max()) > 1e-2
    with pytest.raises(ValueError, match="no reference"):
        engine().logprobs(batch, reference=True)


def test_gradient_pass_and_logprobs_agree_exactly():
    """The first ratio is 1 whether the old values come from a pass of their own or from the gradient's."""
    policy, batch = engine(budget=20), step_batch(0)
    batch = replace(batch, old_logp_BC=policy.logprobs(batch))
    stats = policy.update(batch, loss)
    assert stats["ratio"] == pytest.approx(1.0, abs=1e-6)


def test_saved_folder_loads_with_the_same_weights(tmp_path):
    policy = engine()
    train(policy)
    policy.save(tmp_path / "model")
    loaded = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "model").named_parameters())
    for name, tensor in policy.weights():
        assert torch.equal(loaded.pop(name), tensor)
    assert not loaded


def test_bfloat16_stays_close():
    batch = random_batch()
    low = SinglePolicy(tiny_model(), optim=Optim(), updates=1, token_budget=99, dtype="bfloat16").logprobs(batch)
    assert 1e-6 < float((low - engine().logprobs(batch)).abs().max()) < 0.2


def test_dropout_is_off():
    model = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(2, 2))
    model[1].attention_dropout = 0.1
    forbid_dropout(model)
    assert model[0].p == 0.0
    assert model[1].attention_dropout == 0.0


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", [0.5, 1.0, 1.0, 0.75, 0.25]),
        ("linear", [0.5, 1.0, 1.0, 0.667, 0.333]),
        ("constant", [0.5, 1, 1, 1, 1]),
    ],
)
def test_schedule(schedule, rates):
    optim = Optim(lr=1.0, schedule=schedule, warmup=0.4)
    got = [learning_rate(optim, update=u, updates=5) for u in range(5)]
    assert got == pytest.approx(rates, abs=1e-3)
