"""The shared-prompt layout against the padded one, which is the oracle; and what the micro-batch plan promises."""

import pytest
import torch

from grpo.policy import forward
from grpo.policy.forward import check_model, completion_logprobs, micro_batches, shared_rows
from grpo.types import InputError
from tests.toy import random_batch, tiny_model


def logp_and_gradient(model, batch, layout):
    model.zero_grad()
    logp_BC, _ = completion_logprobs(model, batch, layout=layout)
    (logp_BC * batch.advantage_B[:, None]).sum().backward()
    return logp_BC.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.float64, 1e-6)])
def test_shared_equals_padded(attention, tied, dtype, bound):
    model = tiny_model(tied=tied, attention=attention).to(dtype)
    batch = random_batch()
    logp_BC, gradient = logp_and_gradient(model, batch, "shared")
    oracle_BC, oracle = logp_and_gradient(model, batch, "padded")
    assert float((logp_BC - oracle_BC).abs().max()) < 5e-6
    assert relative(gradient, oracle) < bound


def test_without_the_mask_it_differs(monkeypatch):
    """The negative control: siblings that see each other must show, or the test above could not fail."""
    model, batch = tiny_model(), random_batch()
    oracle_BC, oracle = logp_and_gradient(model, batch, "padded")
    monkeypatch.setattr(
        forward,
        "sibling_mask",
        lambda owner: torch.ones(owner.shape[1], owner.shape[1]).tril().bool().expand(len(owner), 1, -1, -1),
    )
    logp_BC, gradient = logp_and_gradient(model, batch, "shared")
    assert float((logp_BC - oracle_BC).abs().max()) > 1e-2
    assert relative(gradient, oracle) > 1e-2


def test_shared_rows_written_out():
    """Prompt of 2, completions of 3 and 1 tokens: the last token of each is predicted, never fed."""
    batch = random_batch(prompts=(2,), sizes=(2,), lengths=(3, 1))
    rows = shared_rows(batch)
    assert rows.ids_NL.tolist() == [[*batch.prompts[0], *batch.ids_BC[0, :2].tolist()]]
    assert rows.position_NL.tolist() == [[0, 1, 2, 3]]
    assert rows.row_T.tolist() == [0, 0, 0, 0]
    assert rows.place_T.tolist() == [1, 2, 3, 1]  # both first tokens are read at the prompt's end


@pytest.mark.parametrize("layout", ["shared", "padded"])
@pytest.mark.parametrize("budget", [1, 12, 20, 1000])
def test_any_token_budget_gives_the_same_gradient(layout, budget):
    model, batch = tiny_model().double(), random_batch()  # the order of the sums shows less; norms stay in float32
    oracle_BC, oracle = logp_and_gradient(model, batch, "padded")
    parts = micro_batches(batch, layout=layout, token_budget=budget)
    assert sorted(b for part in parts for b in part) == list(range(5))
    total = torch.zeros_like(oracle)
    for part in parts:
        logp_BC, gradient = logp_and_gradient(model, batch.rows(part), layout)
        total += gradient
        for place, b in enumerate(part):
            length = int(batch.lengths_B[b])
            assert torch.allclose(logp_BC[place, :length], oracle_BC[b, :length], atol=1e-6)
    assert relative(total, oracle) < 1e-6


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_micro_batches_keep_to_the_budget(layout):
    batch = random_batch(prompts=(5, 9, 3), sizes=(3, 2, 2), lengths=(4, 1, 6, 2, 5, 8, 1))
    for part in micro_batches(batch, layout=layout, token_budget=24):
        rows = forward.shared_rows(batch.rows(part)) if layout == "shared" else forward.padded_rows(batch.rows(part))
        assert rows.ids_NL.numel() <= 24


def test_gradient_checkpointing_changes_nothing():
    model, batch = tiny_model(), random_batch()
    _, plain = logp_and_gradient(model, batch, "shared")
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    _, checkpointed = logp_and_gradient(model, batch, "shared")
    assert relative(checkpointed, plain) < 3e-6


def test_models_that_would_be_computed_wrongly_are_refused():
    model = tiny_model()
    check_model(model, layout="shared")
    scaled = tiny_model()
    scaled.lm_head.register_forward_hook(lambda module, inputs, logits: 30 * (logits / 30).tanh())  # as Gemma 2 does
    with pytest.raises(InputError, match="not those of a plain linear head"):
        check_model(scaled, layout="padded")
    model.config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(InputError, match=r'valid here: policy\.layout = "padded"'):
        check_model(model, layout="shared")
    check_model(model, layout="padded")
