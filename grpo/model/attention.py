"""Attention of completions that share a prompt, as an attention function for transformers. No mask is needed.

A row holds whole groups one after another: a prompt, then its completions. In each group the prompt attends to itself
(causal), each completion to the whole prompt and to itself (causal). These are dense calls: no [L, L] mask exists, and
nothing is computed between groups or between completions.

On a CPU the two calls of a completion are merged by their normalizers in one autograd function. It keeps queries, keys,
values and the output, and no copy of the prompt per completion. Its backward pass is the kernel's own, called with the
merged output and normalizer: p = exp(score - logsumexp) holds for any part of the keys. Elsewhere the two are one call
over copied keys, by public functions alone. benchmarks/results compares both; neither was measured on a GPU.

H query heads, K key heads, L positions of the row, d head size; a group has n completions of at most R positions, S in
all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "shared_prefix"
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Place of one group in the row: its prompt, then its completions one after another."""

    prompt: slice
    completions: slice
    index_nR: Tensor  # int64: positions of each completion in the row, right padded with its last
    valid_S: Tensor  # int64: which of these n * R are no padding; a mask would make the CPU wait for a GPU

    def to(self, device: torch.device) -> "Span":
        """The same span with its tensors on `device`."""
        return replace(self, index_nR=self.index_nR.to(device), valid_S=self.valid_S.to(device))

    @staticmethod
    def at(start: int, prompt: int, lengths: Sequence[int]) -> "Span":
        """The group that begins at `start`, with a prompt of `prompt` tokens and completions of `lengths`.

        >>> Span.at(10, 3, [2, 1]).index_nR.tolist(), Span.at(10, 3, [2, 1]).completions
        ([[13, 14], [15, 15]], slice(13, 16, None))
        """
        middle, end = start + prompt, start + prompt + sum(lengths)
        length_n1 = torch.tensor(list(lengths), dtype=torch.long)[:, None]
        place_1R = torch.arange(max(lengths, default=0))[None]
        begin_n1 = middle + length_n1.cumsum(0) - length_n1
        return Span(
            prompt=slice(start, middle),
            completions=slice(middle, end),
            index_nR=begin_n1 + torch.minimum(place_1R, length_n1 - 1),
            valid_S=(place_1R < length_n1).flatten().nonzero().flatten(),
        )


def install(model: Any) -> None:
    """Make a transformers model use `shared_prefix_attention`, which is plain SDPA without spans."""
    if model.config.get_text_config()._attn_implementation != NAME:
        model.set_attn_implementation(NAME)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    spans: tuple[Span, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer: query [1, H, L, d], key and value [1, K, L, d] -> ([1, L, H, d], None).

    Transformers passes `spans` through the model from `grpo.model.forward`, to checkpointed layers too.
    """
    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    device = query.device.type
    if torch.is_autocast_enabled(device):  # as it does for SDPA itself
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    if device == "cpu":
        return merged_attention(query, key, value, spans, scale), None
    return copied_attention(query, key, value, spans, scale), None


AttentionInterface.register(NAME, shared_prefix_attention)


def copied_attention(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scale: float) -> Tensor:
    """Two public SDPA calls per group, with the keys of the prompt copied to each completion: [1, L, H, d]."""
    gqa = query.dtype in (torch.bfloat16, torch.float16)  # the float32 kernels cannot share key heads
    if not gqa:
        key, value = (_repeat_heads(x, query.shape[1]) for x in (key, value))
    pieces: list[Tensor] = []
    for span in spans:
        q, k, v = (x[:, :, span.prompt] for x in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
        pieces.append(out.transpose(1, 2)[0])
        if not span.index_nR.numel():
            continue
        count, width = span.index_nR.shape
        q, own_k, own_v = (_per_completion(x, span) for x in (query, key, value))
        k, v = (torch.cat([x.expand(count, -1, -1, -1), own], 2) for x, own in ((k, own_k), (v, own_v)))
        bias: Any = causal_lower_right(width, k.shape[2])
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale, enable_gqa=gqa)
        pieces.append(_in_row_order(out, span).transpose(0, 1))
    return torch.cat(pieces)[None]


def merged_attention(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scale: float) -> Tensor:
    """As `copied_attention`, by the flash kernel of the CPU and without copies of the prompt: [1, L, H, d]."""
    return _Merged.apply(query, key, value, tuple(spans), scale)  # type: ignore[return-value]


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: tuple[Span, ...], scale: float) -> Tensor:
        heads, size = query.shape[1], query.shape[2]
        out_1LHd = query.new_empty(1, size, heads, query.shape[3])
        logsum_1LH = out_1LHd.new_empty(1, size, heads, dtype=_sum_dtype(query))
        for span in spans:
            q, k, v = (x[:, :, span.prompt] for x in (query, key, value))
            out, logsum = _flash(q, _repeat_heads(k, heads), _repeat_heads(v, heads), is_causal=True, scale=scale)
            out_1LHd[:, span.prompt], logsum_1LH[:, span.prompt] = out.transpose(1, 2), logsum.transpose(1, 2)
            if not span.index_nR.numel():
                continue
            there, there_logsum = _flash(_fold_heads(query[:, :, span.completions], key.shape[1]), k, v, scale=scale)
            there_SHd = there.reshape(heads, -1, there.shape[-1]).transpose(0, 1)
            there_SH = there_logsum.reshape(heads, -1).T
            k, v = _repeat_heads(_per_completion(key, span), heads), _repeat_heads(_per_completion(value, span), heads)
            own, own_logsum = _flash(_per_completion(query, span), k, v, is_causal=True, scale=scale)
            own_SHd, own_SH = (_in_row_order(x, span).transpose(0, 1) for x in (own, own_logsum))
            both_SH = torch.logaddexp(there_SH, own_SH)
            share_SH1 = (there_SH - both_SH).exp_()[..., None]  # of the probability mass on the prompt
            out_1LHd[0, span.completions] = own_SHd.lerp(there_SHd, share_SH1.to(own_SHd.dtype))
            logsum_1LH[0, span.completions] = both_SH
        ctx.save_for_backward(query, key, value, out_1LHd, logsum_1LH)
        ctx.spans, ctx.scale = spans, scale
        return out_1LHd

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out_1LHd, logsum_1LH = ctx.saved_tensors
        grad, out, logsum = (x.transpose(1, 2) for x in (grads[0], out_1LHd, logsum_1LH))
        heads, keys, scale = query.shape[1], key.shape[1], ctx.scale
        d_query, d_key, d_value = (torch.empty_like(x) for x in (query, key, value))
        for span in ctx.spans:
            g, q, k, v, o, z = (x[:, :, span.prompt] for x in (grad, query, key, value, out, logsum))
            k_H, v_H = _repeat_heads(k, heads), _repeat_heads(v, heads)
            d_q, d_k, d_v = _flash_backward(g, q, k_H, v_H, o, z, 0.0, True, scale=scale)
            d_query[:, :, span.prompt] = d_q
            d_key[:, :, span.prompt], d_value[:, :, span.prompt] = _sum_heads(d_k, keys), _sum_heads(d_v, keys)
            if not span.index_nR.numel():
                continue
            g, q, o, z = (_fold_heads(x[:, :, span.completions], keys) for x in (grad, query, out, logsum[..., None]))
            d_q, d_k, d_v = _flash_backward(g, q, k, v, o, z[..., 0], 0.0, False, scale=scale)
            d_query[:, :, span.completions] = d_q.reshape(1, heads, -1, d_q.shape[-1])
            d_key[:, :, span.prompt] += d_k
            d_value[:, :, span.prompt] += d_v
            q, k, v, o = (_per_completion(x, span) for x in (query, key, value, out))
            g = query.new_zeros(*span.index_nR.shape, heads, query.shape[3])  # padding has no gradient
            g.flatten(0, 1)[span.valid_S] = grad[0, :, span.completions].transpose(0, 1)
            z = logsum[0][:, span.index_nR].transpose(0, 1)
            k, v = _repeat_heads(k, heads), _repeat_heads(v, heads)
            d_q, d_k, d_v = _flash_backward(g.transpose(1, 2), q, k, v, o, z, 0.0, True, scale=scale)
            d_query[0, :, span.completions] += _in_row_order(d_q, span)
            d_key[0, :, span.completions] = _in_row_order(_sum_heads(d_k, keys), span)
            d_value[0, :, span.completions] = _in_row_order(_sum_heads(d_v, keys), span)
        return d_query, d_key, d_value, None, None


def _per_completion(x_1HLd: Tensor, span: Span) -> Tensor:
    """One batch entry per completion: [n, H, R, d]."""
    return x_1HLd[0].transpose(0, 1)[span.index_nR].transpose(1, 2)


def _in_row_order(x_nHRd: Tensor, span: Span) -> Tensor:
    """Completions one after another, as in the row: [H, S, d]."""
    return x_nHRd.transpose(1, 2).flatten(0, 1)[span.valid_S].transpose(0, 1)


def _fold_heads(x_1HSd: Tensor, keys: int) -> Tensor:
    """Turn the query heads of a key head into more queries: [1, K, H/K * S, d]. Without a mask this costs nothing."""
    return x_1HSd.reshape(1, keys, -1, x_1HSd.shape[-1])


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat each key head for its query heads: [*, K, *, d] -> [*, H, *, d]."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _sum_heads(x: Tensor, keys: int) -> Tensor:
    """The gradient of `_repeat_heads`: [*, H, *, d] -> [*, K, *, d]."""
    return x if x.shape[1] == keys else x.unflatten(1, (keys, -1)).sum(2)


def _sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the kernel's sums."""
    return torch.promote_types(x.dtype, torch.float32)
