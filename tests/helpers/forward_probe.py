"""Measures of a forward pass: positions, tensors, log-probabilities, gradients."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grpo.model.forward import completion_logprobs


def logp_and_gradient(model, batch, layout):
    model.zero_grad()
    logp_BC, _ = completion_logprobs(model, batch, layout=layout)
    (logp_BC * batch.advantage_B[:, None]).sum().backward()
    return logp_BC.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def relative(a, b):
    return float((a - b).norm() / b.norm())


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


class Counted:
    """The number of positions that a model's decoder was given in every call."""

    def __init__(self, model):
        self.calls = []
        model.get_decoder().register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module, args, kwargs):
        self.calls.append(kwargs["input_ids"].numel())
