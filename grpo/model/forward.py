"""One run of the model over a batch: rows of tokens in, log-probabilities of completion tokens out.

Two layouts have the same result. `padded` runs the prompt once per completion, as every plain trainer does, and is the
oracle. `shared` runs the prompt once per group: groups are packed into one row without padding, each a prompt and then
its completions. A completion sees its prompt and itself (grpo/model/attention.py), and its positions restart after the
prompt. For 8 answers of 500 tokens to a prompt of 1,200 that is 2.6 times fewer tokens.

N model rows, L their length, B completions, C completion positions, T the learnt tokens of all of them, D hidden size.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.errors import UserError
from grpo.model.attention import Span, install
from grpo.model.lm_head import ChunkedHead

logger = logging.getLogger(__name__)

Layout = Literal["shared", "padded"]
LayoutOption = Literal["auto", "shared", "padded"]
"""The layout in a recipe; "auto" is shared, and padded for a model that shared cannot serve."""


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """Model input for some completions, and the place that predicts each completion token."""

    ids_NL: Tensor  # int64; several rows are right padded
    position_NL: Tensor  # int64
    spans: tuple[Span, ...] | None  # the groups in the one row of the shared layout; None: plain causal
    row_T: Tensor  # int64: model row of the hidden state that predicts learnt token t
    place_T: Tensor  # int64: its position in that row


def padded_inputs(batch: Batch) -> ModelInputs:
    """One row per completion. Right padding needs no mask: no learnt token looks to the right."""
    rows, row_T, place_T = [], [], []
    for b, (group, length) in enumerate(zip(batch.group_B.tolist(), batch.lengths_B.tolist(), strict=True)):
        prompt = batch.prompts[group]
        rows.append([*prompt, *batch.ids_BC[b, : length - 1].tolist()])  # the last token predicts nothing
        row_T += [b] * length
        place_T += range(len(prompt) - 1, len(prompt) - 1 + length)
    width = max(map(len, rows))
    return ModelInputs(
        ids_NL=_padded(rows, width),
        position_NL=torch.arange(width).expand(len(rows), width),
        spans=None,
        row_T=torch.tensor(row_T),
        place_T=torch.tensor(place_T),
    )


def shared_inputs(batch: Batch) -> ModelInputs:
    """One row of all groups: each prompt, then its completions. A prompt with one completion is a plain sequence."""
    ids: list[int] = []
    positions: list[int] = []
    place_T: list[list[int]] = [[] for _ in batch.group_B]  # by completion first: groups need not lie in order
    spans: list[Span] = []
    lengths = batch.lengths_B.tolist()
    for group, prompt in enumerate(batch.prompts):
        rows_of_group = torch.nonzero(batch.group_B == group).flatten().tolist()
        start, end = len(ids), len(prompt)
        ids += prompt
        positions += range(end)
        for b in rows_of_group:
            fed = lengths[b] - 1  # the last token predicts nothing
            # The end of the prompt predicts the first token.
            place_T[b] = [start + end - 1, *range(len(ids), len(ids) + fed)]
            ids += batch.ids_BC[b, :fed].tolist()
            positions += range(end, end + fed)
        fed_each = [lengths[b] - 1 for b in rows_of_group if lengths[b] > 1]
        alone = len(fed_each) == 1
        spans.append(Span.at(start, end + sum(fed_each) * alone, [] if alone else fed_each))
    flat_T = [place for places in place_T for place in places]
    return ModelInputs(
        ids_NL=torch.tensor([ids]),
        position_NL=torch.tensor([positions]),
        spans=tuple(spans),
        row_T=torch.zeros(len(flat_T), dtype=torch.long),
        place_T=torch.tensor(flat_T),
    )


def completion_logprobs(
    model: Any, batch: Batch, *, layout: Layout, temperature: float = 1.0, head: ChunkedHead | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token: two float32 [B, C], 0 where `learn_BC` is false.

    `model` is a causal language model of transformers with a bare linear head. `head` is given if its weight is
    sharded: only a module that DeepSpeed knows can gather it.
    """
    hidden_TD = _hidden_states(model, shared_inputs(batch) if layout == "shared" else padded_inputs(batch))
    device = hidden_TD.device
    learn_BC = batch.learn_BC.to(device)
    ids_T = batch.ids_BC.to(device)[learn_BC]
    head = ChunkedHead(model.get_output_embeddings().weight) if head is None else head
    logp_T, entropy_T = head(hidden_TD, ids_T, temperature)
    zeros_BC = torch.zeros(learn_BC.shape, dtype=logp_T.dtype, device=device)
    return zeros_BC.masked_scatter(learn_BC, logp_T), zeros_BC.masked_scatter(learn_BC, entropy_T)


def _hidden_states(model: Any, rows: ModelInputs) -> Tensor:
    """The last hidden states that predict the learnt tokens: [T, D]."""
    device = next(model.parameters()).device
    sharing: dict[str, Any] = {}
    if rows.spans is not None:
        install(model)  # another attention function would ignore the spans and show completions to each other
        sharing["spans"] = tuple(span.to(device) for span in rows.spans)
    hidden_NLD = model.get_decoder()(
        input_ids=rows.ids_NL.to(device),
        position_ids=rows.position_NL.to(device),
        attention_mask=None,
        use_cache=False,
        **sharing,
    ).last_hidden_state
    return hidden_NLD[rows.row_T.to(device), rows.place_T.to(device)]


def micro_batches(batch: Batch, *, layout: Layout, token_budget: int) -> list[list[int]]:
    """Row indices of each micro-batch, at most `token_budget` model tokens (padding included) in each.

    A unit (`Batch.unit_B`) that is over the budget alone gets a micro-batch of its own. In the shared layout a group
    stays together while it fits, and is cut into several, with the prompt in each, if not. The most expensive come
    first: ranks that work on their first micro-batches together then wait least for each other.
    """
    shared = layout == "shared"
    units = _packed_units(batch, token_budget) if shared else _units(batch)
    # Tokens of a unit in one packed row, or of its widest row.
    sizes = [_tokens(batch, unit) if shared else max(_tokens(batch, [b]) for b in unit) for unit in units]
    parts: list[list[int]] = []
    used: list[tuple[int, int]] = []  # (width, rows) of each part's model input
    for place in sorted(range(len(units)), key=lambda place: -sizes[place]):  # decreasing: packs well, pads least
        size, rows = sizes[place], 1 if shared else len(units[place])
        for part, (width, count) in enumerate(used):
            after = (width + size, 1) if shared else (max(width, size), count + rows)
            if after[0] * after[1] <= token_budget:
                parts[part] += units[place]
                used[part] = after
                break
        else:
            parts.append(list(units[place]))
            used.append((size, rows))
    order = sorted(range(len(parts)), key=lambda part: -used[part][0] * used[part][1])
    return [parts[part] for part in order]


def resolve_layout(
    model: Any, option: LayoutOption, *, gather: Callable[[Any], AbstractContextManager[Any]] = nullcontext
) -> Layout:
    """Return the layout that a model is run in; "auto" falls back to padded, with a warning.

    `gather` is a context in which sharded weights are whole. UserError if the recipe asks for `shared` and the model
    is not served by it, or if the chunked head would compute its logits wrongly.
    """
    check_head(model, gather=gather)
    if option == "padded":
        return "padded"
    reason = unsupported_reason(model)
    if reason is None:
        return "shared"
    if option == "shared":
        raise UserError(f'policy.layout = "shared" cannot serve {reason}; valid here: policy.layout = "padded"')
    logger.warning(
        "layout       padded: the shared prompt cannot serve %s; every completion repeats its prompt", reason
    )
    return "padded"


def unsupported_reason(model: Any) -> str | None:
    """Say in a few words why the shared layout cannot serve a model; None if it can.

    Sliding windows and other layer types are read from the configuration; anything else shows on two small groups.
    """
    config = model.config.get_text_config()
    if has_sliding_windows(model):
        return "sliding-window layers"
    if other := set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return f"layers of the kind {sorted(other)[0]!r}"
    before = config._attn_implementation
    try:
        with torch.no_grad():
            shared_TD = _hidden_states(model, shared_inputs(PROBE)).float()
            padded_TD = _hidden_states(model, padded_inputs(PROBE)).float()
        distance = float((shared_TD - padded_TD).norm() / padded_TD.norm())
    except torch.OutOfMemoryError:
        raise
    except (TypeError, RuntimeError):  # the model takes no unknown arguments, or the kernel not its heads
        distance = torch.inf
    if distance < (1e-3 if model.dtype == torch.float32 else 0.05):  # else rounding
        return None
    model.set_attn_implementation(before)
    return f"{config.model_type}: its layers do not follow the attention function (distance {distance:.1g} on a probe)"


def check_head(model: Any, *, gather: Callable[[Any], AbstractContextManager[Any]] = nullcontext) -> None:
    """Refuse a model whose logits are not those of a plain linear head: scaled, capped or shifted afterwards.

    `gather` as for `resolve_layout`. Any such change shows on a few tokens.
    """
    config = model.config.get_text_config()
    with torch.no_grad():
        ids = torch.arange(8, device=next(model.parameters()).device)[None] % config.vocab_size
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        weight_VD = model.get_output_embeddings().weight
        with gather([weight_VD]):
            plain = hidden @ weight_VD.T
        own = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(plain.float(), own.float(), rtol=1e-3, atol=1e-3 * float(own.abs().max())):
        raise UserError(
            f"model {config.model_type}: its logits are not those of a plain linear head (scaled, capped, a bias), "
            "which the chunked log-probabilities need"
        )


def has_sliding_windows(model: Any) -> bool:
    """Whether some layer attends over a sliding window, which the shared layout does not express."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return "sliding_attention" in kinds
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)


PROBE = Batch(  # about the smallest that shows siblings, neighbours and restarted positions
    prompts=((1, 2, 3), (4, 5)),
    group_B=torch.tensor([0, 0, 1]),
    ids_BC=torch.tensor([[6, 7, 8], [9, 10, 0], [11, 12, 0]]),
    learn_BC=torch.tensor([[True, True, True], [True, True, False], [True, True, False]]),
    advantage_B=torch.ones(3),
    sampler_logp_BC=torch.zeros(3, 3),
)


def _tokens(batch: Batch, unit: Sequence[int]) -> int:
    """Model tokens of some completions of one prompt in a row of their own."""
    return len(batch.prompts[int(batch.group_B[unit[0]])]) + int(batch.lengths_B[list(unit)].sum()) - len(unit)


def _units(batch: Batch) -> list[list[int]]:
    """Rows that must stay together, all of one prompt: those of a unit, or each row alone."""
    if batch.unit_B is None:
        return [[b] for b in range(len(batch.group_B))]
    units: dict[int, list[int]] = {}
    for b, unit in enumerate(batch.unit_B.tolist()):
        units.setdefault(unit, []).append(b)
    return list(units.values())


def _packed_units(batch: Batch, token_budget: int) -> list[list[int]]:
    """Units of each prompt, joined while they fit into one packed row."""
    by_group: dict[int, list[list[int]]] = {group: [] for group in range(len(batch.prompts))}
    for unit in _units(batch):
        by_group[int(batch.group_B[unit[0]])].append(unit)
    packed: list[list[int]] = []
    for units in by_group.values():
        for place, unit in enumerate(units):
            if place == 0 or _tokens(batch, packed[-1] + unit) > token_budget:
                packed.append([])
            packed[-1] += unit
    return packed


def _padded(rows: Sequence[Sequence[int]], width: int, *, fill: int = 0) -> Tensor:
    return torch.tensor([[*row, *(fill,) * (width - len(row))] for row in rows], dtype=torch.long)
