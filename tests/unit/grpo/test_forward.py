"""The shared-prompt layout against the padded one, which is the oracle; and what the micro-batch plan promises."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from grpo.errors import UserError
from grpo.model import attention, forward
from grpo.model.attention import Span
from grpo.model.forward import completion_logprobs, micro_batches, resolve_layout, shared_inputs
from grpo.model.policy_model import PolicyModel
from tests.helpers.forward_probe import Counted, Largest, logp_and_gradient, relative
from tests.helpers.toy import random_batch, tiny_model

KERNELS = {"merged": attention.merged_attention, "copied": attention.copied_attention}
SKEWED = {"prompts": (5, 9, 4, 7), "sizes": (3, 2, 2, 1), "lengths": (4, 1, 6, 2, 5, 1, 1, 8)}


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.float64, 1e-7)])
def test_shared_equals_padded(kernel, tied, dtype, bound, monkeypatch):
    """Four groups in one row: unequal lengths, completions of one token among others, alone, and a group of one."""
    monkeypatch.setattr(attention, "merged_attention", KERNELS[kernel])
    model = tiny_model(tied=tied).to(dtype)
    batch = random_batch(**SKEWED)
    logp_BC, gradient = logp_and_gradient(model, batch, "shared")
    oracle_BC, oracle = logp_and_gradient(model, batch, "padded")
    assert float((logp_BC - oracle_BC).abs().max()) < 5e-6
    assert relative(gradient, oracle) < bound


def test_what_spans_and_positions_keep_apart_is_seen(monkeypatch):
    """The negative controls: each of them must show, or the test above could not fail."""
    model, batch = tiny_model(), random_batch()
    oracle_BC, oracle = logp_and_gradient(model, batch, "padded")
    right = shared_inputs(batch)
    length = right.ids_NL.shape[1]
    one_each = tuple(Span.at(s.prompt.start, s.completions.stop - s.prompt.start, []) for s in right.spans)
    wrong = {
        "siblings see each other": replace(right, spans=one_each),
        "groups see each other": replace(right, spans=(Span.at(0, length, []),)),
        "positions do not restart": replace(right, position_NL=torch.arange(length)[None]),
        "no spans at all": replace(right, spans=None),
    }
    for name, rows in wrong.items():
        monkeypatch.setattr(forward, "shared_inputs", lambda batch, rows=rows: rows)
        logp_BC, gradient = logp_and_gradient(model, batch, "shared")
        assert float((logp_BC - oracle_BC).abs().max()) > 1e-2, name
        assert relative(gradient, oracle) > 1e-2, name


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (6, 1)])
def test_attention_equals_a_dense_mask(kernel, heads):
    """The rule written out as a mask: the same group, not later, its prompt or one's own completion."""
    spans, owners = [], []
    for group, (prompt, lengths) in enumerate([(5, [3, 1, 4]), (40, [33, 3]), (4, []), (6, [5, 5])]):
        spans.append(Span.at(len(owners), prompt, lengths))
        owners += [(group, 0)] * prompt
        owners += [(group, 1 + n) for n, length in enumerate(lengths) for _ in range(length)]
    mask = [
        [j <= i and there[0] == here[0] and there[1] in (0, here[1]) for j, there in enumerate(owners)]
        for i, here in enumerate(owners)
    ]
    torch.manual_seed(0)
    inputs = [
        torch.randn(1, len(owners), h, 8, dtype=torch.float64).transpose(1, 2) for h in (heads[0], *heads[1:] * 2)
    ]
    weight = torch.randn(1, len(owners), heads[0], 8, dtype=torch.float64)
    found = []
    for masked in (False, True):
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        if masked:
            out = scaled_dot_product_attention(q, k, v, attn_mask=torch.tensor(mask), enable_gqa=True).transpose(1, 2)
        else:
            out = KERNELS[kernel](q, k, v, spans, 8**-0.5)
        (out * weight).sum().backward()
        found.append(torch.cat([x.flatten() for x in (out.detach(), q.grad, k.grad, v.grad)]))
    assert relative(*found) < 1e-12


def test_a_prompt_is_run_once_and_nothing_is_padded():
    model, batch = tiny_model(), random_batch(**SKEWED)
    counted = Counted(model)
    completion_logprobs(model, batch, layout="shared")
    completion_logprobs(model, batch, layout="padded")
    fed = sum(length - 1 for length in SKEWED["lengths"])
    widest = max(9 + 5 - 1, 5 + 4 - 1, 7 + 8 - 1, 9 + 2 - 1)
    assert counted.calls == [sum(SKEWED["prompts"]) + fed, 8 * widest]


def test_no_tensor_of_all_pairs_of_positions_exists():
    """Eight groups of 4 + 2 x 3 positions: 80 x 80 pairs of a row would be 6,400 numbers a head."""
    model = tiny_model(width=8)
    batch = random_batch(prompts=(4,) * 8, sizes=(2,) * 8, lengths=(4,) * 16)
    with Largest() as largest:
        hidden_TD = forward._hidden_states(model, shared_inputs(batch))
        hidden_TD.sum().backward()
    assert len(shared_inputs(batch).position_NL[0]) == 80
    assert largest.numbers <= max(256 * 8, 80 * 16)  # the embedding's gradient, the widest layer


def test_shared_rows_written_out():
    """Prompt of 2, completions of 3 and 1 tokens: the last token of each is predicted, never fed."""
    batch = random_batch(prompts=(2,), sizes=(2,), lengths=(3, 1))
    rows = shared_inputs(batch)
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
        rows = (
            forward.shared_inputs(batch.rows(part)) if layout == "shared" else forward.padded_inputs(batch.rows(part))
        )
        assert rows.ids_NL.numel() <= 24


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant):
    """The spans reach the layers when they are run again, in either way of doing so."""
    model, batch = tiny_model(), random_batch()
    _, plain = logp_and_gradient(model, batch, "padded")
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    _, checkpointed = logp_and_gradient(model, batch, "shared")
    assert relative(checkpointed, plain) < 3e-6


def test_groups_are_packed_up_to_the_budget():
    """Groups of 15, 14, 9, 6 and 5 tokens at 20 a micro-batch: three, where padding would have made five of them."""
    batch = random_batch(prompts=(9, 8, 5, 3, 3), sizes=(2,) * 5, lengths=(4, 4, 4, 4, 3, 3, 2, 3, 2, 2))
    parts = micro_batches(batch, layout="shared", token_budget=20)
    tokens = [shared_inputs(batch.rows(part)).ids_NL.numel() for part in parts]
    assert tokens == [20, 20, 9]
    assert [sorted(set(batch.group_B[part].tolist())) for part in parts] == [[0, 4], [1, 3], [2]]


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_rows_of_a_unit_share_a_micro_batch(layout):
    """Two pairs of one prompt, whatever the budget: a loss of pairs needs both rows at once."""
    batch = random_batch(prompts=(5, 5), sizes=(4, 2), lengths=(4, 1, 6, 2, 5, 3))
    paired = replace(batch, unit_B=torch.tensor([7, 8, 7, 8, 9, 9]))
    parts = micro_batches(paired, layout=layout, token_budget=1)
    assert sorted(sorted(part) for part in parts) == [[0, 2], [1, 3], [4, 5]]
    assert len(micro_batches(batch, layout=layout, token_budget=1)) == 6
    assert paired.rows([1, 3, 4]).unit_B.tolist() == [8, 8, 9]


def test_models_that_would_be_computed_wrongly_are_refused():
    scaled = tiny_model()
    scaled.lm_head.register_forward_hook(lambda module, inputs, logits: 30 * (logits / 30).tanh())  # as Gemma 2 does
    with pytest.raises(UserError, match="not those of a plain linear head"):
        resolve_layout(scaled, "padded")


def test_cudnn_attention_is_off_since_it_plans_anew_for_every_length():
    torch.backends.cuda.enable_cudnn_sdp(True)
    PolicyModel(tiny_model()).prepare()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
