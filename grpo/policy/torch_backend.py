"""The policy in one process, plain torch: CPU or one GPU. Also the reference that other engines are tested against."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.losses import Loss, Metrics, Stats, finalize_metrics, merge_metrics
from grpo.model.forward import Layout, LayoutOption, completion_logprobs, micro_batches, resolve_layout
from grpo.policy.nonfinite import nan_if_nonfinite
from grpo.policy.optimizer import AdamWConfig, learning_rate
from grpo.policy.optimizer_state import (
    MOMENTS,
    HostBuffers,
    OptimizerSnapshot,
    ParameterState,
    read_counts,
    read_parameter,
)

Dtype = Literal["auto", "float32", "bfloat16"]


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones on this device; on a CPU without the instructions they
    are emulated, five times slower (measured: 17 against 98 GFLOP/s on two AVX2 cores)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def disable_dropout(model: torch.nn.Module) -> None:
    """Set every dropout to 0, so that the gradient pass and the sampler see the same policy ."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


class SinglePolicy:
    """`PolicyEngine` over a transformers model held whole in float32, trained in bfloat16 where that is fast."""

    def __init__(
        self,
        model: Any,
        *,
        optim: AdamWConfig,
        updates: int,
        token_budget: int,
        layout: LayoutOption = "auto",
        temperature: float = 1.0,
        dtype: Dtype = "auto",
        gradient_checkpointing: bool = False,
        reference: Any = None,
        progress: Callable[[str], None] = lambda text: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`updates` is the length of the schedule; `progress` is told what is being computed, several times a step,
        and `say` what the reader of the run must know."""
        self.layout: Layout = resolve_layout(model, layout, say=say)
        disable_dropout(model)
        model.train()  # for gradient checkpointing; there is no dropout left to switch on
        if gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._model, self._optim, self._updates = model, optim, updates
        self._reference = None if reference is None else reference.eval().requires_grad_(False)
        self._budget, self._temperature = token_budget, temperature
        self._device = next(model.parameters()).device
        self._bf16 = dtype == "bfloat16" or (dtype == "auto" and fast_bf16(self._device))
        self._num_updates, self._num_steps_applied, self._progress = 0, 0, progress
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
        )

    @torch.no_grad()
    def logprobs(self, batch: Batch, *, reference: bool = False) -> Tensor:
        model = self._reference if reference else self._model
        if model is None:
            raise ValueError("this engine holds no reference model: it was built for kl = 0")
        logp_BC = torch.zeros(batch.ids_BC.shape)
        for index in micro_batches(batch, layout=self.layout, token_budget=self._budget):
            part = batch.rows(index)
            with self._autocast():
                part_logp_BC, _ = completion_logprobs(model, part, layout=self.layout, temperature=self._temperature)
            logp_BC[index, : part_logp_BC.shape[1]] = part_logp_BC.float().cpu()
        return logp_BC

    def update(self, batch: Batch, loss: Loss) -> Stats:
        lr = learning_rate(self._optim, update=self._num_updates, updates=self._updates)
        self._num_updates += 1
        if not batch.learn_BC.any():
            return {"lr": lr, "skipped": 1.0}
        total: Metrics = {}
        plan = micro_batches(batch, layout=self.layout, token_budget=self._budget)
        for number, index in enumerate(plan):
            self._progress(f"update: micro-batch {number + 1} of {len(plan)}")
            part = batch.rows(index)
            with self._autocast():
                logp_BC, entropy_BC = completion_logprobs(
                    self._model, part, layout=self.layout, temperature=self._temperature
                )
            # Everything after the head is cheap and float32; the batch itself stays on the CPU.
            part_loss, stats = loss(logp_BC.float().cpu(), entropy_BC.float().cpu(), part)
            nan_if_nonfinite(part_loss, logp_BC).backward()
            total = merge_metrics(total, stats)
        grad_norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._optim.max_grad_norm)
        if not torch.isfinite(grad_norm):  # clipping would spread it over all weights, and Adam would keep it
            self._optimizer.zero_grad(set_to_none=True)
            return {"lr": lr, "skipped": 1.0, "nonfinite": 1.0}
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._num_steps_applied += 1
        self._optimizer.zero_grad(set_to_none=True)
        return finalize_metrics(total) | {"grad_norm": float(grad_norm), "lr": lr, "skipped": 0.0}

    def export_weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._model.named_parameters():
            yield name, parameter.detach()

    def save(self, path: Path) -> None:
        self._model.save_pretrained(path, safe_serialization=True)

    @property
    def num_updates(self) -> int:
        return self._num_updates

    @property
    def num_steps_applied(self) -> int:
        return self._num_steps_applied

    def snapshot_state(self, copies: HostBuffers | None = None) -> OptimizerSnapshot:
        pieces, copies = {}, copies or HostBuffers()
        for number, parameter in enumerate(self._model.parameters()):
            moments = self._optimizer.state.get(parameter, {})  # none, or some, before the first step is through
            steps = int(moments["step"]) if {"step", *MOMENTS} <= moments.keys() else 0
            tensors = {"master": parameter, **{key: moments[key] for key in MOMENTS if steps}}
            pieces[number] = ParameterState(
                {key: copies.copy(number, key, each) for key, each in tensors.items()}, steps
            )
        names = tuple(name for name, _ in self._model.named_parameters())
        return OptimizerSnapshot(updates=self._num_updates, names=names, pieces=pieces)

    @torch.no_grad()
    def load_state(self, path: Path) -> None:
        parameters = list(self._model.named_parameters())
        self._num_updates, _ = read_counts(path, parameters=len(parameters))
        for number, (name, parameter) in enumerate(parameters):
            piece = read_parameter(path, number, name, tuple(parameter.shape))
            parameter.copy_(piece.tensors["master"])
            if piece.steps:
                moments = {key: piece.tensors[key].to(parameter) for key in MOMENTS}
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(piece.steps), device=parameter.device),
                    **moments,
                }

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16)
