"""What every policy engine promises, tried on the engines that run here."""

import functools
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from grpo.distributed.communicator import Communicator
from grpo.losses import make_loss, with_token_weights
from grpo.model.policy_model import disable_dropout
from grpo.policy.optimizer import AdamWConfig, learning_rate
from grpo.policy.optimizer_state import HostBuffers
from grpo.policy.torch_backend import torch_policy
from grpo.settings import LossConfig, PolicyConfig
from tests.helpers.installed import need
from tests.helpers.toy import deepspeed_policy, random_batch, tiny_model, write_state

ENGINES = ("single", "zero-1", "zero-2", "zero-3")


@pytest.fixture(params=ENGINES)
def kind(request):
    if request.param != "single":
        need("deepspeed")
    return request.param


def engine(kind, model=None, *, lr=2e-3, budget=1000, layout="shared", updates=3, more=None, **optim):
    """An engine of this kind over `model`; `more` goes to the engine, the rest to its optimizer. ZeRO has one rank here
    and several in test_zero.py."""
    settings = {
        "optim": AdamWConfig(lr=lr, schedule="constant", warmup_ratio=0.0, **optim),
        "total_updates": updates,
        "token_budget": budget,
        "layout": layout,
        "dtype": "float32",
        **(more or {}),
    }
    if kind == "single":
        return torch_policy(model or tiny_model(), **settings)
    settings = {"zero": PolicyConfig(zero_stage=int(kind[-1])), "comm": Communicator(), **settings}
    return deepspeed_policy(model or tiny_model(), **settings)


def loss(logp, entropy, batch):
    return make_loss(LossConfig(importance_cap=0.0))(logp, entropy, batch)


def step_batch(seed):
    batch = random_batch(prompts=(5, 9, 3), sizes=(3, 2, 2), lengths=(4, 1, 6, 2, 5, 3, 2), seed=seed)
    return with_token_weights(batch, LossConfig(aggregation="sequence"), total=lambda _: (23, 7))


def flat(policy):
    return torch.cat([tensor.detach().flatten().clone() for _, tensor in policy.export_weights()])


def train(policy, steps=3):
    for seed in range(steps):
        policy.update(step_batch(seed), loss)
    return flat(policy)


@functools.cache
def oracle():
    return train(engine("single", layout="padded"))


@pytest.mark.parametrize("layout", ["shared", "padded"])
@pytest.mark.parametrize("budget", [1, 20, 1000])
def test_layout_invariance(kind, layout, budget):
    """The same weights after three steps, however the rows are laid out and cut into micro-batches."""
    # Plain SGD would show the gradient; Adam divides by its size, so 1e-5 here is a strict bound on the gradient too.
    assert float((train(engine(kind, layout=layout, budget=budget)) - oracle()).abs().max()) < 1e-5


def test_another_step_is_seen(kind):
    """So that the test above can fail."""
    assert float((train(engine(kind, lr=2.2e-3)) - oracle()).abs().max()) > 1e-4


def test_checkpointed_and_clipped_like_one_process(kind):
    """Gradients of norm 3 to 7 clipped to 0.5, each layer run twice."""
    clipped = train(engine("single", max_grad_norm=0.5))
    policy = engine(kind, budget=20, max_grad_norm=0.5, more={"gradient_checkpointing": True})
    assert float((train(policy) - clipped).abs().max()) < 1e-5
    assert float((clipped - oracle()).abs().max()) > 1e-4


@pytest.mark.parametrize(("stage", "offload"), [(2, "optimizer"), (3, "all")])
def test_what_waits_in_main_memory_steps_alike(stage, offload):
    need("deepspeed")
    policy = engine(f"zero-{stage}", budget=20, more={"zero": PolicyConfig(zero_stage=stage, offload=offload)})
    assert float((train(policy) - oracle()).abs().max()) < 1e-5


def test_the_step_follows_the_sum_over_rows(kind):
    """Against a gradient computed by hand: one AdamW step from zero moments moves by lr * sign, where it is large."""
    batch, by_hand = step_batch(0), tiny_model()
    policy = engine(kind, max_grad_norm=1e9)
    before = [tensor.detach().clone() for _, tensor in policy.export_weights()]
    for b in range(len(batch.group_B)):
        prompt, length = batch.prompts[int(batch.group_B[b])], int(batch.lengths_B[b])
        ids = torch.tensor([[*prompt, *batch.ids_BC[b, :length].tolist()]])
        logp = by_hand(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])
        (-(logp.squeeze(-1) * batch.weight_BC[b, :length]).sum() * batch.advantage_B[b]).backward()
    policy.update(batch, loss)
    after = [tensor.detach().clone() for _, tensor in policy.export_weights()]
    for old, new, hand in zip(before, after, by_hand.parameters(), strict=True):
        moved, large = (new - old) / -2e-3, hand.grad.abs() > 1e-4
        assert torch.allclose(moved[large], hand.grad[large].sign(), atol=2e-3)


def test_nothing_moves_when_nothing_teaches(kind):
    policy = engine(kind)
    before = train(policy, steps=1)  # so that Adam has momentum that could move the weights
    batch = replace(random_batch(), advantage_B=torch.zeros(5))
    stats = policy.update(with_token_weights(batch, LossConfig(aggregation="token"), max_tokens=9), loss)
    assert stats["skipped"] == 1.0
    assert torch.equal(flat(policy), before)


def test_a_gradient_that_is_not_finite_changes_nothing(kind):
    """Neither the weights nor what Adam remembers: the step after it is the step that would have been."""
    policy, untouched = engine(kind), engine(kind)
    before = train(policy, steps=1)
    train(untouched, steps=1)
    bad = step_batch(1)
    bad.advantage_B[0] = float("inf")
    assert policy.update(bad, loss)["skipped"] == 1.0
    assert torch.equal(flat(policy), before)
    policy.update(step_batch(2), loss)
    untouched.update(step_batch(2), loss)
    assert torch.equal(flat(policy), flat(untouched))


def test_a_check_before_the_step_sees_the_means_and_can_refuse_it(kind):
    policy, seen = engine(kind, budget=20), []
    before = flat(policy)

    def refuse(stats):
        seen.append(stats)
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        policy.update(step_batch(0), loss, before_step=refuse)
    assert torch.equal(flat(policy), before)
    assert (seen[0]["tokens"], policy.num_steps_applied) == (23.0, 0)
    assert seen[0]["mismatch"] > 0


def test_logprobs_and_reference(kind):
    batch = random_batch()
    policy = engine(kind, budget=20, more={"reference": tiny_model()})
    before = policy.logprobs(batch)
    assert before.shape == batch.ids_BC.shape
    assert not before[~batch.learn_BC].any()
    assert torch.equal(policy.logprobs(batch, reference=True), before)
    train(policy)
    assert torch.equal(policy.logprobs(batch, reference=True), before)
    assert float((policy.logprobs(batch) - before).abs().max()) > 1e-2
    with pytest.raises(ValueError, match="no reference"):
        engine(kind).logprobs(batch, reference=True)


def test_gradient_pass_and_logprobs_agree_exactly(kind):
    """The first ratio is 1 whether the old values come from a pass of their own or from the gradient's."""
    policy, batch = engine(kind, budget=20), step_batch(0)
    batch = replace(batch, old_logp_BC=policy.logprobs(batch))
    stats = policy.update(batch, loss)
    assert stats["ratio"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_saved_folder_loads_with_the_same_weights(kind, tied, tmp_path):
    policy = engine(kind, tiny_model(tied=tied))
    train(policy)
    policy.save(tmp_path / "model")
    loaded = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "model").named_parameters())
    for name, tensor in policy.export_weights():
        assert torch.equal(loaded.pop(name), tensor)
    assert not loaded


def test_bfloat16_stays_close(kind):
    """Single multiplies in bfloat16 only; ZeRO holds the weights in it, so it is further from float32."""
    batch = random_batch()
    low = engine(kind, more={"dtype": "bfloat16"}).logprobs(batch)
    assert 1e-6 < float((low - engine("single").logprobs(batch)).abs().max()) < 0.2


def test_dropout_is_off():
    model = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(2, 2))
    model[1].attention_dropout = 0.1
    disable_dropout(model)
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
    optim = AdamWConfig(lr=1.0, schedule=schedule, warmup_ratio=0.4)
    got = [learning_rate(optim, update=u, updates=5) for u in range(5)]
    assert got == pytest.approx(rates, abs=1e-3)


def test_a_first_step_that_runs_out_of_memory_leaves_a_state_that_can_be_gone_on_from(tmp_path, monkeypatch):
    """Adam has the moments of some parameters then, half of those of one, and has moved none."""
    policy, left = engine("single"), [5]
    zeros_like = torch.zeros_like

    def zeros(tensor, **about):
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros_like(tensor, **about)

    def short_of_memory():
        monkeypatch.setattr(torch, "zeros_like", zeros)
        step()

    before, step = flat(policy), policy._backend._optimizer.step
    policy._backend._optimizer.step = short_of_memory
    with pytest.raises(torch.OutOfMemoryError):
        policy.update(step_batch(0), loss)
    monkeypatch.undo()
    assert sorted({len(state) for state in policy._backend._optimizer.state.values()}) == [2, 3]
    write_state(policy.snapshot_state(), tmp_path)
    later = engine("single", tiny_model(seed=4))
    later.load_state(tmp_path)
    assert torch.equal(flat(later), before)
    assert torch.equal(train(later), train(engine("single")))


def test_one_copy_of_the_state_takes_the_memory_of_the_one_before(kind, tmp_path):
    """The second has Adam's moments too; the third asks for no more memory, and is of the weights as they are then."""
    policy, copies = engine(kind), HostBuffers()

    def held():
        tensors = policy.snapshot_state(copies).tensors
        return {(n, key): tensor for n, state in tensors.items() for key, tensor in state.items()}

    first = held()
    train(policy, steps=1)
    second = held()
    train(policy, steps=1)
    third = held()
    assert {key: tensor.data_ptr() for key, tensor in second.items()} == {k: t.data_ptr() for k, t in third.items()}
    assert all(first[place] is second[place] for place in first)
    assert len(third) == 3 * len(first)
    masters = torch.cat([third[number, "master"].flatten() for number in range(len(first))])
    assert torch.equal(masters, flat(policy))


def test_a_state_goes_on_bitwise_in_any_engine(kind, tmp_path):
    """Three steps, against one step, its files, and two steps in a fresh engine, of this kind and of the other."""
    straight = train(engine(kind))
    policy = engine(kind)
    train(policy, steps=1)
    held = policy.snapshot_state()
    policy.update(step_batch(1), loss)  # what is held does not move on with the weights
    write_state(held, tmp_path / "state")
    for reader in (kind, "zero-2" if kind == "single" else "single"):
        if reader != "single":
            need("deepspeed")
        later = engine(reader, tiny_model(seed=4))
        later.load_state(tmp_path / "state")
        stats = [later.update(step_batch(seed), loss) for seed in (1, 2)]
        assert stats[-1]["skipped"] == 0.0
        if reader == kind:
            assert torch.equal(flat(later), straight)
        assert float((flat(later) - straight).abs().max()) < 1e-5


ZERO = [(stage, offload) for stage in (1, 2, 3) for offload in ("none", "optimizer", *(("all",) if stage == 3 else ()))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("stage", "offload"), ZERO)
def test_a_skipped_update_leaves_no_gradient_behind(stage, offload, dtype):
    """The first moment after [an update that is not finite, a sound one] is that after the sound one alone."""
    need("deepspeed")

    def moments(*bad):
        zero = PolicyConfig(zero_stage=stage, offload=offload)
        model = tiny_model().bfloat16() if dtype == "bfloat16" else tiny_model()
        policy = engine(f"zero-{stage}", model, more={"zero": zero, "dtype": dtype})
        for is_bad in bad:
            batch = step_batch(1)
            if is_bad:
                batch.advantage_B[4] = float("nan")
            assert policy.update(batch, loss)["skipped"] == float(is_bad)
        return torch.cat([state["exp_avg"].flatten() for state in policy.snapshot_state().tensors.values()])

    alone = moments(False)
    assert float(alone.abs().max()) > 1e-6
    assert torch.equal(moments(True, False), alone)
