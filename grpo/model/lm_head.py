"""Language-model head: hidden states -> log-probabilities and entropies, in chunks of tokens.

N tokens, D hidden size, V vocabulary; [N, V] never exists whole. Logits are float32 whatever the model's dtype: a
bfloat16 head alone is off by 0.03 nats (RMS). The backward pass computes the logits of each chunk again, except for
the last chunk, which is kept. Memory plans count on the size of a chunk (launch/planner/memory.py).
"""

import math
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 1024 * 1024


def chunk_tokens(vocabulary: int, *, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Number of tokens whose float32 logits fit into `chunk_bytes`, at least 1."""
    return max(1, chunk_bytes // (4 * vocabulary))


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, ids_N: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        dtype = _compute_dtype(hidden_ND)
        logp_N = torch.empty(len(ids_N), dtype=dtype, device=hidden_ND.device)
        entropy_N, logz_N = torch.empty_like(logp_N), torch.empty_like(logp_N)
        weight_f_VD = weight_VD.to(dtype)  # no copy where it is float32 already
        kept: tuple[Tensor, Tensor] | None = None
        for part in _chunks(len(ids_N), chunk):
            kept = None  # before the next is made
            # In place, on logits less their maximum: a chunk is far larger than any cache.
            shifted_nV = (hidden_ND[part].to(dtype) / temperature) @ weight_f_VD.T
            largest_n = shifted_nV.amax(dim=1)
            shifted_nV.sub_(largest_n[:, None])
            chosen_n = shifted_nV.gather(1, ids_N[part, None]).squeeze(1)
            e_nV = shifted_nV.exp()
            sum_n = e_nV.sum(dim=1)
            logp_N[part] = chosen_n - sum_n.log()
            logz_N[part] = largest_n + sum_n.log()
            # entropy = log Z - sum_v p_v * logit_v
            entropy_N[part] = sum_n.log() - torch.linalg.vecdot(e_nV, shifted_nV) / sum_n
            kept = e_nV, sum_n
        # The last chunk is in memory anyway; kept, it saves the backward pass one product.
        ctx.kept = kept if any(ctx.needs_input_grad) else None
        ctx.save_for_backward(hidden_ND, weight_VD, ids_N, logz_N)
        ctx.mark_non_differentiable(entropy_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, d_logp_N: Tensor, _: None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden_ND, weight_VD, ids_N, logz_N = ctx.saved_tensors
        d_logp_N = d_logp_N / ctx.temperature
        weight_f_VD = weight_VD.to(_compute_dtype(hidden_ND))
        d_hidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        d_weight_VD = torch.zeros_like(weight_f_VD) if ctx.needs_input_grad[1] else None
        kept, ctx.kept = ctx.kept, None  # overwritten below: a second backward pass computes it again
        for part in reversed(_chunks(len(ids_N), ctx.chunk)):
            hidden_nD = hidden_ND[part].to(weight_f_VD.dtype)
            # d logp / d logit_v = [v = id] - p_v
            if kept is not None:
                e_nV, sum_n = kept
                d_logits_nV = e_nV.mul_((-d_logp_N[part] / sum_n)[:, None])
            else:
                d_logits_nV = torch.addmm(-logz_N[part, None], hidden_nD / ctx.temperature, weight_f_VD.T)
                d_logits_nV.exp_().mul_(-d_logp_N[part, None])
            kept = None
            d_logits_nV.scatter_add_(1, ids_N[part, None], d_logp_N[part, None])
            if d_hidden_ND is not None:
                d_hidden_ND[part] = (d_logits_nV @ weight_f_VD).to(hidden_ND.dtype)
            if d_weight_VD is not None:
                d_weight_VD.addmm_(d_logits_nV.T, hidden_nD)
        d_weight = None if d_weight_VD is None else d_weight_VD.to(weight_VD.dtype)
        return d_hidden_ND, d_weight, None, None, None


def chunked_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    ids_N: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each id, and entropy of its distribution, from hidden states and head weight.

    Args: hidden_ND any float dtype; weight_VD the output embedding; ids_N int64; temperature divides the logits;
    chunk tokens at a time (default: what fits `CHUNK_BYTES`).
    Returns: (logp_N, entropy_N), float32, nats; logp_N alone carries a gradient to hidden_ND and weight_VD.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    chunk = chunk or chunk_tokens(weight_VD.shape[0])
    device = hidden_ND.device.type
    with torch.autocast(device, enabled=False):
        return _ChunkedLogprobs.apply(hidden_ND, weight_VD, ids_N, temperature, chunk)  # type: ignore[return-value]


class ChunkedHead(torch.nn.Module):
    """The output embedding as a module that returns log-probabilities instead of logits.

    It is a module because ZeRO-3 gathers a weight, forward and backward, only for the module that holds it.
    """

    def __init__(self, weight_VD: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight = weight_VD

    def forward(self, hidden_TD: Tensor, ids_T: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """(logp_T, entropy_T), float32, as `chunked_logprobs`."""
        return chunked_logprobs(hidden_TD, self.weight, ids_T, temperature=temperature)


def _compute_dtype(hidden_ND: Tensor) -> torch.dtype:
    return torch.promote_types(hidden_ND.dtype, torch.float32)  # float64 stays, for gradcheck


def _chunks(count: int, size: int) -> list[slice]:
    """As few slices as `size` allows, of about equal width, so that the last, which is kept, is not small.

    >>> _chunks(384, 341)
    [slice(0, 192, None), slice(192, 384, None)]
    """
    width = max(1, math.ceil(count / max(1, math.ceil(count / size))))
    return [slice(start, min(start + width, count)) for start in range(0, count, width)]
