"""Rollouts with plain transformers, on a CPU or one GPU.

The prompt of a group is prefilled once and cached once. The common prefix of all prompts in a batch, above all the
system prompt, is prefilled once for all of them. The G samples of a prompt are decoded as G query positions of one row:
every step adds G columns to the row's cache, and a mask lets sample g see the prompt and its own columns only. The
model code is the stock one. Finished samples and rows are dropped, so short answers do not cost as much as the longest.

P prompts in a batch, G samples of each, L cache columns of the longest prompt, V vocabulary; R rows and W samples of
each are still being decoded, with C decoded cache columns.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from grpo.errors import NonFiniteError, UserError
from grpo.model.forward import has_sliding_windows
from grpo.rollout.base import check_weights
from grpo.types import Completion, Sampling, TokenIds

COMPACT_BELOW = 0.75  # share of the decoded samples that must still be active, else the cache is copied without others
MIN_SHARED_PREFIX = 16  # tokens; a shorter common prefix is not worth a forward pass of its own


class HfRollout:
    """`RolloutEngine` over a transformers model of its own (not the trainer's: `load` copies into it)."""

    def __init__(
        self,
        model: Any,
        *,
        decode: Callable[[Sequence[int]], str],
        eos_ids: Sequence[int],
        rows: int = 64,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`decode` turns token ids into text without special tokens; `rows` is the most completions decoded at once."""
        if not eos_ids:
            raise ValueError("without a stop token every completion would run to the limit")
        if has_sliding_windows(model):
            raise UserError("the hf rollout engine cannot serve models with sliding-window layers: its masks hold none")
        self._model = model.eval().requires_grad_(False)
        if model.config.get_text_config()._attn_implementation == "sdpa":
            self._model.set_attn_implementation(GQA_SDPA)
        self._decode, self._eos_ids, self._rows = decode, tuple(eos_ids), rows
        self._version, self._progress = -1, progress

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        self._version = -1
        own = dict(self._model.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
        for name, tensor in check_weights(weights, shapes, version=version):
            own[name].copy_(tensor)
        self._version = version

    @torch.no_grad()
    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        generator = torch.Generator(device=self._device).manual_seed(seed)
        groups = max(1, self._rows // sampling.group_size)
        by_length = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))  # similar lengths need least padding
        written: dict[int, list[Completion]] = {}
        for start in range(0, len(prompts), groups):
            index = by_length[start : start + groups]
            self._progress(f"rollout: prompts {start + 1} to {start + len(index)} of {len(prompts)}")
            written |= zip(index, self._batch([prompts[p] for p in index], sampling, generator), strict=True)
        return [written[p] for p in range(len(prompts))]

    def release(self) -> None:
        """Do nothing: only the weights are held between calls."""

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _batch(
        self, prompts: Sequence[TokenIds], sampling: Sampling, generator: torch.Generator
    ) -> list[list[Completion]]:
        size = sampling.group_size
        lengths_P = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        logits_RWV, cache = self._prefill(prompts, lengths_P, size)
        state = DecodeState(lengths_P, size)
        ids, logps = ([[[] for _ in range(size)] for _ in prompts] for _ in range(2))
        left = len(prompts) * size
        for place in range(sampling.max_tokens):
            ids_RW, logp_RW = sample(logits_RWV, sampling, generator)
            for p, g, token, logp in state.active(ids_RW, logp_RW):
                ids[p][g].append(token)
                logps[p][g].append(logp)
                if token in self._eos_ids:
                    state.finish(p, g)
                    left -= 1
            done = f"{len(prompts) * size - left} of {len(prompts) * size} done"
            self._progress(f"rollout: token {place + 1} of at most {sampling.max_tokens}, {done}")
            if not left or place + 1 == sampling.max_tokens:
                break
            hidden_RWD = self._model.get_decoder()(
                input_ids=state.compact(ids_RW, cache),
                position_ids=state.positions(place),
                attention_mask=_attention_mask(self._model, state.mask()),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            logits_RWV = self._model.get_output_embeddings()(hidden_RWD).float()
        return [[self._completion(i, lp) for i, lp in zip(*pair, strict=True)] for pair in zip(ids, logps, strict=True)]

    def _prefill(self, prompts: Sequence[TokenIds], lengths_P: Tensor, size: int) -> tuple[Tensor, DynamicCache]:
        """Run every prompt once, and their common prefix once for all.

        Returns the logits after each prompt, [P, G, V], the same for all its samples, and the cache.
        """
        widest, common = int(lengths_P.max()), shared_prefix_length(prompts)
        ids_PL = torch.tensor([[*prompt, *(0,) * (widest - len(prompt))] for prompt in prompts], device=self._device)
        cache, decoder, mask = DynamicCache(), self._model.get_decoder(), None
        place_1L = torch.arange(widest, device=self._device)[None]
        if common:
            decoder(input_ids=ids_PL[:1, :common], past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(prompts))
            seen = torch.ones(widest - common, widest, dtype=torch.bool, device=self._device).tril(common)
            mask = _attention_mask(self._model, seen.expand(len(prompts), 1, -1, -1))
        hidden_PLD = decoder(
            input_ids=ids_PL[:, common:],
            position_ids=place_1L[:, common:],
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        last_PD = hidden_PLD[torch.arange(len(prompts), device=self._device), lengths_P - 1 - common]
        logits_PV = self._model.get_output_embeddings()(last_PD).float()
        return logits_PV[:, None].expand(-1, size, -1), cache

    def _completion(self, ids: list[int], logps: list[float]) -> Completion:
        return Completion(
            text=self._decode(ids),
            token_ids=tuple(ids),
            logprobs=tuple(logps),
            finish="stop" if ids[-1] in self._eos_ids else "length",
            version=self._version,
        )


class DecodeState:
    """Decoding state: for R prompts with W samples each, the sample that every cache column belongs to.

    Finished samples are decoded along until a smaller rectangle, R' rows of W' samples, holds all active ones. Rows
    with fewer than W' active samples keep some finished ones, whose tokens are ignored.
    """

    def __init__(self, lengths_P: Tensor, size: int) -> None:
        device = lengths_P.device
        self._lengths_R, self._places_L = lengths_P, torch.arange(int(lengths_P.max()), device=device)
        self._prompts = list(range(len(lengths_P)))  # [R]
        self._samples = [list(range(size)) for _ in self._prompts]  # [R][W]
        self._active = {(p, g) for p in self._prompts for g in range(size)}
        self._owner_RC = torch.empty(len(lengths_P), 0, dtype=torch.long, device=device)  # of the decoded columns

    def active(self, ids_RW: Tensor, logp_RW: Tensor) -> Iterator[tuple[int, int, int, float]]:
        """(prompt, sample, token, log-probability) of every active sample, in order."""
        rows = zip(self._prompts, self._samples, ids_RW.tolist(), logp_RW.tolist(), strict=True)
        for prompt, samples, ids, logps in rows:
            for sampled, token, logp in zip(samples, ids, logps, strict=True):
                if (prompt, sampled) in self._active:
                    yield prompt, sampled, token, logp

    def finish(self, prompt: int, sampled: int) -> None:
        self._active.discard((prompt, sampled))

    def compact(self, ids_RW: Tensor, cache: DynamicCache) -> Tensor:
        """Drop finished samples and rows where enough have finished; the tokens to decode next, [R, W]."""
        active = [[(p, g) in self._active for g in row] for p, row in zip(self._prompts, self._samples, strict=True)]
        rows, width = [r for r, row in enumerate(active) if any(row)], max(map(sum, active))
        if len(rows) * width <= COMPACT_BELOW * ids_RW.numel():
            ordered = [sorted(range(len(active[r])), key=lambda w, r=r: not active[r][w])[:width] for r in rows]
            rows_R, columns_RW = torch.tensor(rows), torch.tensor(ordered)
            if len(rows) < len(active):
                cache.batch_select_indices(rows_R.to(ids_RW.device))
            ids_RW = ids_RW[rows_R.to(ids_RW.device)].gather(1, columns_RW.to(ids_RW.device))
            self._lengths_R, self._owner_RC = (one[rows_R.to(one.device)] for one in (self._lengths_R, self._owner_RC))
            self._prompts = [self._prompts[r] for r in rows]
            self._samples = [[self._samples[r][w] for w in row] for r, row in zip(rows, ordered, strict=True)]
        self._samples_RW = torch.tensor(self._samples, device=ids_RW.device)
        self._owner_RC = torch.cat([self._owner_RC, self._samples_RW], dim=1)
        return ids_RW

    def positions(self, place: int) -> Tensor:
        """Positions of the tokens in their own sequences, [R, W]."""
        return (self._lengths_R[:, None] + place).expand(-1, self._samples_RW.shape[1])

    def mask(self) -> Tensor:
        """Which columns each sample sees, its prompt and its own: bool [R, 1, W, L + C]."""
        prompt_RL = self._places_L < self._lengths_R[:, None]
        prompt_RWL = prompt_RL[:, None, :].expand(-1, self._samples_RW.shape[1], -1)
        own_RWC = self._owner_RC[:, None, :] == self._samples_RW[:, :, None]
        return torch.cat([prompt_RWL, own_RWC], dim=-1)[:, None]


def sample(logits_PGV: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample one token per row; ids and log-probabilities in the sampled distribution, [P, G].

    Temperature 0 takes the most likely token, with probability 1.
    """
    if sampling.temperature == 0:
        ids_PG = logits_PGV.argmax(dim=-1)
        return ids_PG, torch.zeros(ids_PG.shape, device=ids_PG.device)
    logp_PGV = (logits_PGV / sampling.temperature).log_softmax(dim=-1)
    if sampling.top_p < 1:
        logp_PGV = _nucleus(logp_PGV, sampling.top_p)
    ids_PG = sample_by_inverse_cdf(logp_PGV, generator)
    return ids_PG, logp_PGV.gather(-1, ids_PG[..., None]).squeeze(-1)


def sample_by_inverse_cdf(logp_PGV: Tensor, generator: torch.Generator) -> Tensor:
    """Sample one token per row, [P, G], by inversion of the cumulative distribution in float64.

    This needs one random number per row. `torch.multinomial` draws one per row and token of the vocabulary, in sequence
    on a CPU. A token of probability 0 is never sampled. NonFiniteError where the sum is not finite.
    """
    sum_PGV = logp_PGV.double().exp().cumsum(dim=-1)
    all_PG1 = sum_PGV[..., -1:]
    if not all_PG1.isfinite().all():
        raise NonFiniteError("rollout: the model's logits are not finite, so no token can be sampled")
    place_PG1 = all_PG1 * torch.rand(all_PG1.shape, dtype=torch.float64, device=all_PG1.device, generator=generator)
    below_PG1 = torch.minimum(place_PG1, all_PG1.nextafter(torch.zeros_like(all_PG1)))  # rounding may reach the end
    return torch.searchsorted(sum_PGV, below_PG1, right=True).squeeze(-1)


def _nucleus(logp_PGV: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of tokens with probability `top_p`, and renormalize."""
    sorted_PGV, order_PGV = logp_PGV.sort(dim=-1, descending=True)
    mass_before_PGV = sorted_PGV.exp().cumsum(dim=-1) - sorted_PGV.exp()
    kept_PGV = sorted_PGV.masked_fill(mass_before_PGV >= top_p, -torch.inf)
    return torch.full_like(logp_PGV, -torch.inf).scatter(-1, order_PGV, kept_PGV).log_softmax(dim=-1)


def shared_prefix_length(prompts: Sequence[TokenIds]) -> int:
    """Tokens to prefill once for all prompts: fewer than the shortest prompt has, 0 where it is not worth it.

    >>> shared_prefix_length([range(20), range(30)]), shared_prefix_length([range(20), [*range(18), 0]])
    (19, 18)
    >>> shared_prefix_length([range(20)]), shared_prefix_length([range(15), range(20)])
    (0, 0)
    """
    if len(prompts) == 1:
        return 0
    places = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    common = next((n for n, tokens in enumerate(places) if len(set(tokens)) > 1), min(map(len, prompts)) - 1)
    return common if common >= MIN_SHARED_PREFIX else 0


GQA_SDPA = "gqa_sdpa"


def gqa_sdpa(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention function for transformers: query [R, H, W, d], key and value [R, K, L, d] -> ([R, W, H, d], None).

    With a mask, transformers copies the cache for each of the H / K query heads of a key head, in every layer of every
    step. Here these heads become more queries of one key head. Without a mask transformers' own function is called.
    """
    rows, heads, width, size = query.shape
    if attention_mask is None or key.shape[1] == heads:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    folded = query.reshape(rows, key.shape[1], -1, size)
    mask = attention_mask.expand(rows, heads // key.shape[1], width, -1).flatten(1, 2)[:, None]
    out = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=kwargs.get("scaling"))
    return out.reshape(rows, heads, width, size).transpose(1, 2), None


AttentionInterface.register(GQA_SDPA, gqa_sdpa)


def _attention_mask(model: Any, mask: Tensor) -> Tensor:
    """A boolean 4D mask as the model's attention takes it: SDPA as it is, eager as numbers to add."""
    if model.config.get_text_config()._attn_implementation in ("sdpa", GQA_SDPA):
        return mask
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(model.dtype).min
    )
