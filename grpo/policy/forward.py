"""How the model is run over a batch: rows of tokens in, log-probabilities of completion tokens out.

Two layouts with the same result. `padded` runs the prompt once per completion, as every plain trainer does, and is the
oracle. `shared` runs the prompt once per group: one row holds the prompt and then all its completions; a completion
sees the prompt and itself, and its positions restart after the prompt. For 8 answers of 500 tokens to a prompt of 1,200
that is 2.6 times fewer tokens.

N model rows, L their length, B completions, C completion positions, T the learnt tokens of all of them, D hidden size.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.logprobs import ChunkedHead
from grpo.types import InputError

Layout = Literal["shared", "padded"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Model input for some completions, and where each completion token is predicted."""

    ids_NL: Tensor  # int64, right padded
    position_NL: Tensor  # int64
    mask_N1LL: Tensor | None  # bool, True where a query may look; None: plain causal
    row_T: Tensor  # int64: the model row that predicts learnt token t
    place_T: Tensor  # int64: the position in that row whose hidden state predicts it


def padded_rows(batch: Batch) -> Rows:
    """One row per completion. Right padding needs no mask: nothing that counts ever looks to the right."""
    rows, row_T, place_T = [], [], []
    for b, (group, length) in enumerate(zip(batch.group_B.tolist(), batch.lengths_B.tolist(), strict=True)):
        prompt = batch.prompts[group]
        rows.append([*prompt, *batch.ids_BC[b, : length - 1].tolist()])  # the last token predicts nothing we need
        row_T += [b] * length
        place_T += range(len(prompt) - 1, len(prompt) - 1 + length)
    width = max(map(len, rows))
    return Rows(
        ids_NL=_padded(rows, width),
        position_NL=torch.arange(width).expand(len(rows), width),
        mask_N1LL=None,
        row_T=torch.tensor(row_T),
        place_T=torch.tensor(place_T),
    )


def shared_rows(batch: Batch) -> Rows:
    """One row per prompt: the prompt, then its completions, each of which sees the prompt and itself."""
    rows: list[list[int]] = [list(prompt) for prompt in batch.prompts]
    positions = [list(range(len(prompt))) for prompt in batch.prompts]
    owners = [[0] * len(prompt) for prompt in batch.prompts]  # 0 the prompt, 1 + b completion b
    row_T, place_T = [], []
    for b, (group, length) in enumerate(zip(batch.group_B.tolist(), batch.lengths_B.tolist(), strict=True)):
        prompt, start = len(batch.prompts[group]), len(rows[group])
        rows[group] += batch.ids_BC[b, : length - 1].tolist()
        positions[group] += range(prompt, prompt + length - 1)
        owners[group] += [1 + b] * (length - 1)
        row_T += [group] * length
        place_T += [prompt - 1, *range(start, start + length - 1)]  # the first token is read at the prompt's end
    width = max(map(len, rows))
    return Rows(
        ids_NL=_padded(rows, width),
        position_NL=_padded(positions, width),
        mask_N1LL=sibling_mask(_padded(owners, width, fill=-1)),
        row_T=torch.tensor(row_T),
        place_T=torch.tensor(place_T),
    )


def sibling_mask(owner_NL: Tensor) -> Tensor:
    """Who may look at whom: int64 [N, L] -> bool [N, 1, L, L], query by key.

    A position looks at earlier ones (and itself) that belong to the prompt (0) or to its own completion. Padding (-1)
    looks at the prompt, so that no row of the softmax is empty.
    """
    length = owner_NL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool).tril()
    key_N1L, query_NL1 = owner_NL[:, None, :], owner_NL[:, :, None]
    return (causal_LL & ((key_N1L == 0) | (key_N1L == query_NL1)))[:, None]


def completion_logprobs(
    model: Any, batch: Batch, *, layout: Layout, temperature: float = 1.0, head: ChunkedHead | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token: two float32 [B, C], 0 where `learn_BC` is false.

    `model` is any causal language model of transformers with a bare linear head; `head` is given where its weight is
    sharded and only a module that DeepSpeed knows can gather it.
    """
    device = next(model.parameters()).device
    rows = shared_rows(batch) if layout == "shared" else padded_rows(batch)
    mask = None if rows.mask_N1LL is None else attention_mask(model, rows.mask_N1LL.to(device))
    hidden_NLD = model.get_decoder()(
        input_ids=rows.ids_NL.to(device),
        position_ids=rows.position_NL.to(device),
        attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    hidden_TD = hidden_NLD[rows.row_T.to(device), rows.place_T.to(device)]
    learn_BC = batch.learn_BC.to(device)
    ids_T = batch.ids_BC.to(device)[learn_BC]
    head = ChunkedHead(model.get_output_embeddings().weight) if head is None else head
    logp_T, entropy_T = head(hidden_TD, ids_T, temperature)
    zeros_BC = torch.zeros(learn_BC.shape, dtype=logp_T.dtype, device=device)
    return zeros_BC.masked_scatter(learn_BC, logp_T), zeros_BC.masked_scatter(learn_BC, entropy_T.detach())


def micro_batches(batch: Batch, *, layout: Layout, token_budget: int) -> list[list[int]]:
    """Row indices of each micro-batch, whole rows, at most `token_budget` model tokens (padding included) in each.

    A single completion that is over the budget with its prompt gets a micro-batch of its own. In the shared layout a
    group stays together while it fits and is cut into several rows with the prompt in each where it does not.
    """
    units = _units(batch, token_budget) if layout == "shared" else [[b] for b in range(len(batch.group_B))]
    lengths = batch.lengths_B.tolist()
    cost = [len(batch.prompts[int(batch.group_B[unit[0]])]) + sum(lengths[b] - 1 for b in unit) for unit in units]
    parts: list[list[int]] = []
    widest = count = 0
    for unit, tokens in sorted(zip(units, cost, strict=True), key=lambda pair: -pair[1]):  # alike lengths pad least
        fits = max(widest, tokens) * (count + 1) <= token_budget
        # Two pieces of one oversized group must not meet: they would become one row again.
        if parts and fits and (layout == "padded" or not _same_group(batch, parts[-1], unit)):
            parts[-1] += unit
            widest, count = max(widest, tokens), count + 1
        else:
            parts.append(list(unit))
            widest, count = tokens, 1
    return parts


def check_model(
    model: Any, *, layout: Layout, whole: Callable[[Tensor], AbstractContextManager[Any]] = nullcontext
) -> None:
    """Refuse, in one line, a model that the chosen layout or the chunked head would compute wrongly.

    `whole` is a context in which a weight that is sharded can be read.
    """
    config = model.config.get_text_config()
    if layout == "shared" and (has_sliding_windows(model) or config._attn_implementation not in ("sdpa", "eager")):
        reason = "sliding-window layers" if has_sliding_windows(model) else f"attention {config._attn_implementation!r}"
        raise InputError(f'policy.layout = "shared" cannot serve {reason}; valid here: policy.layout = "padded"')
    # Some models scale, cap or shift their logits after the head. Whatever it is, it shows on any few tokens.
    with torch.no_grad():
        ids = torch.arange(8, device=next(model.parameters()).device)[None] % config.vocab_size
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        weight_VD = model.get_output_embeddings().weight
        with whole(weight_VD):
            plain = hidden @ weight_VD.T
        own = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(plain.float(), own.float(), rtol=1e-3, atol=1e-3 * float(own.abs().max())):
        raise InputError(
            f"model {config.model_type}: its logits are not those of a plain linear head (scaled, capped, a bias), "
            "which the chunked log-probabilities need"
        )


def has_sliding_windows(model: Any) -> bool:
    """Whether some layer looks back over a window only, which our own masks do not express."""
    return "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ())


def _units(batch: Batch, token_budget: int) -> list[list[int]]:
    lengths = batch.lengths_B.tolist()
    units: list[list[int]] = []
    for group, prompt in enumerate(batch.prompts):
        used = token_budget + 1
        for b in torch.nonzero(batch.group_B == group).flatten().tolist():
            if used + lengths[b] - 1 > token_budget:
                units.append([])
                used = len(prompt)
            units[-1].append(b)
            used += lengths[b] - 1
    return units


def _same_group(batch: Batch, part: Sequence[int], unit: Sequence[int]) -> bool:
    return int(batch.group_B[unit[0]]) in {int(batch.group_B[b]) for b in part}


def _padded(rows: Sequence[Sequence[int]], width: int, *, fill: int = 0) -> Tensor:
    return torch.tensor([[*row, *(fill,) * (width - len(row))] for row in rows], dtype=torch.long)


def attention_mask(model: Any, mask: Tensor) -> Tensor:
    """A boolean 4D mask in the form that the model's attention takes: SDPA as it is, eager as numbers to be added."""
    if model.config.get_text_config()._attn_implementation == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(model.dtype).min
    )
