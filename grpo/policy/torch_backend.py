"""The policy in one process, plain torch: CPU or one GPU. Also the reference that DeepSpeed is tested against."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.model.policy_model import PolicyModel
from grpo.policy.engine import Policy
from grpo.policy.nonfinite import NonFiniteLog
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.optimizer_state import MOMENTS
from grpo.policy.precision import Dtype, resolve_bf16


class TorchBackend:
    """`Backend` that holds the model whole in float32; its products are in bfloat16 if `dtype` resolves to it."""

    def __init__(self, model: PolicyModel, optim: AdamWConfig, *, dtype: Dtype = "auto") -> None:
        self.model, self.optim = model, optim
        self._parameters = [parameter for _, parameter in model.trainable_parameters()]
        self._device = self._parameters[0].device
        self.dtype = "bfloat16" if resolve_bf16(dtype, self._device) else "float32"
        model.prepare()
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
        )

    def forward(self, batch: Batch, *, reference: bool = False) -> tuple[Tensor, Tensor]:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"):
            if not reference:
                return self.model(batch)
            with self.model.reference() as frozen:
                return frozen(batch)

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        loss.backward()

    def step(self, lr: float) -> float | None:
        grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.optim.max_grad_norm)
        is_finite = bool(torch.isfinite(grad_norm))  # clipping has spread a NaN over all gradients, Adam would keep it
        if is_finite:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(grad_norm) if is_finite else None

    def optimizer_state(self, parameter: Any, *, moments: bool) -> Mapping[str, Tensor]:
        if not moments:  # an update that ran out of memory has left some, or parts of them
            return {"master": parameter}
        state = self._optimizer.state[parameter]  # empty if the parameter never had a gradient
        return {"master": parameter, **{key: state.get(key, torch.zeros_like(parameter)) for key in MOMENTS}}

    @torch.no_grad()
    def load_optimizer_state(self, states: Iterable[tuple[Any, Mapping[str, Tensor]]], *, num_steps: int) -> None:
        for parameter, tensors in states:
            parameter.copy_(tensors["master"])
            if num_steps:
                moments = {key: tensors[key].to(parameter) for key in MOMENTS}
                step = torch.tensor(float(num_steps), device=parameter.device)
                self._optimizer.state[parameter] = {"step": step, **moments}


def torch_policy(
    model: Any,
    optim: AdamWConfig,
    *,
    total_updates: int,
    token_budget: int,
    dtype: Dtype = "auto",
    nonfinite: NonFiniteLog | None = None,
    **settings: Any,
) -> Policy:
    """A one-process policy over a transformers model; `settings` are those of `PolicyModel`."""
    backend = TorchBackend(PolicyModel(model, **settings), optim, dtype=dtype)
    return Policy(backend, total_updates=total_updates, token_budget=token_budget, nonfinite=nonfinite)
