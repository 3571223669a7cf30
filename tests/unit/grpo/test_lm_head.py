"""Chunked log-probabilities and entropies against the whole softmax."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grpo.model.lm_head import chunked_logprobs
from tests.helpers.forward_probe import Largest


def inputs(tokens=7, width=5, vocabulary=11, dtype=torch.float32):
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, vocabulary, (tokens,))


def whole(hidden, weight, ids, temperature):
    logp = (hidden @ weight.T / temperature).log_softmax(dim=1)
    return logp.gather(1, ids[:, None]).squeeze(1), -(logp.exp() * logp).sum(dim=1)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_the_whole_softmax_and_its_gradients(chunk, temperature):
    hidden, weight, ids = inputs()
    outputs, gradients = [], []
    for function in (
        lambda: chunked_logprobs(hidden, weight, ids, temperature=temperature, chunk=chunk),
        lambda: whole(hidden, weight, ids, temperature),
    ):
        logp, entropy = function()
        logp.sin().sum().backward()
        outputs.append(torch.cat([logp, entropy]).detach())
        gradients.append(torch.cat([hidden.grad.flatten(), weight.grad.flatten()]))
        hidden.grad = weight.grad = None
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_gradcheck_in_float64():
    hidden, weight, ids = inputs(dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w: chunked_logprobs(h, w, ids, temperature=0.7, chunk=3)[0], (hidden, weight)
    )


def test_bfloat16_hidden_states_get_float32_logits():
    hidden, weight, ids = inputs()
    logp, _ = chunked_logprobs(hidden.bfloat16(), weight, ids)
    oracle, _ = whole(hidden.bfloat16().float(), weight, ids, 1.0)
    assert logp.dtype == torch.float32
    assert torch.allclose(logp, oracle, atol=1e-5)


def test_the_last_chunk_is_kept_and_computed_again_only_when_it_was_used_up():
    """Products with the head: one a chunk forward; backward two a chunk, and one more for all but the last."""

    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
            return function(*args, **(kwargs or {}))

    hidden, weight, ids = inputs()
    with Products() as products:
        logp, _ = chunked_logprobs(hidden, weight, ids, chunk=3)
        assert products.count == 3
        logp.sum().backward(retain_graph=True)
        assert products.count == 3 + 3 * 3 - 1
        first, hidden.grad = hidden.grad, None
        logp.sum().backward()
        assert products.count == 3 + 3 * 3 - 1 + 3 * 3
    assert torch.allclose(hidden.grad, first, atol=1e-6)


def test_the_whole_matrix_never_exists():
    """The largest tensor that any operation makes, forward or backward, is one chunk of logits or the head itself."""
    hidden, weight, ids = inputs(tokens=64, width=2, vocabulary=1000)
    with Largest() as largest:
        logp, _ = chunked_logprobs(hidden, weight, ids, chunk=4)
        logp.sum().backward()
    assert largest.numbers == 4 * 1000


def test_temperature_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        chunked_logprobs(*inputs(), temperature=0.0)
