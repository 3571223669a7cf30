"""Rollouts with plain transformers, on a CPU or one GPU.

A group shares one prompt, so its prompt is prefilled once and its cache is held once. The G samples are decoded as G
query positions of one row: every step adds G columns to that row's cache, and a mask lets sample g see the prompt and
its own columns only. Nothing is repeated, and the model code is the stock one.

P prompts in a batch, G samples of each, L cache columns, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from grpo.policy.forward import has_sliding_windows
from grpo.rollout.base import checked
from grpo.types import Completion, InputError, Sampling, TokenIds


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
        """`decode` turns token ids into text without special tokens; at most `rows` completions are decoded at once."""
        if not eos_ids:
            raise ValueError("without a stop token every completion would run to the limit")
        if has_sliding_windows(model):
            raise InputError(
                "the hf rollout engine cannot serve models with sliding-window layers: its masks hold none"
            )
        self._model = model.eval().requires_grad_(False)
        self._decode, self._eos_ids, self._rows = decode, tuple(eos_ids), rows
        self._version, self._progress = -1, progress

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        self._version = -1
        own = dict(self._model.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
        for name, tensor in checked(weights, shapes, version=version):
            own[name].copy_(tensor)
        self._version = version

    @torch.no_grad()
    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        generator = torch.Generator(device=self._device).manual_seed(seed)
        groups = max(1, self._rows // sampling.group_size)
        by_length = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))  # alike lengths pad least
        written: dict[int, list[Completion]] = {}
        for start in range(0, len(prompts), groups):
            index = by_length[start : start + groups]
            self._progress(f"rollout: prompts {start + 1} to {start + len(index)} of {len(prompts)}")
            written |= zip(index, self._batch([prompts[p] for p in index], sampling, generator), strict=True)
        return [written[p] for p in range(len(prompts))]

    def release(self) -> None:
        """Nothing is held between calls but the weights."""

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _batch(
        self, prompts: Sequence[TokenIds], sampling: Sampling, generator: torch.Generator
    ) -> list[list[Completion]]:
        size = sampling.group_size
        lengths_P = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        logits_PGV, cache = self._prefill(prompts, lengths_P, size)
        widest = int(lengths_P.max())
        sees_prompt_PL = torch.arange(widest, device=self._device) < lengths_P[:, None]
        ids_TPG, logp_TPG = [], []
        done_PG = torch.zeros(len(prompts), size, dtype=torch.bool, device=self._device)
        for place in range(sampling.max_tokens):
            ids_PG, logp_PG = sample(logits_PGV, sampling, generator)
            ids_TPG.append(ids_PG)
            logp_TPG.append(logp_PG)
            done_PG |= torch.isin(ids_PG, torch.tensor(self._eos_ids, device=self._device))
            done = f"{int(done_PG.sum())} of {done_PG.numel()} done"
            self._progress(f"rollout: token {place + 1} of at most {sampling.max_tokens}, {done}")
            if bool(done_PG.all()) or place + 1 == sampling.max_tokens:
                break
            hidden_PGD = self._model.get_decoder()(
                input_ids=ids_PG,
                position_ids=(lengths_P[:, None] + place).expand(-1, size),
                attention_mask=_attention_mask(self._model, _step_mask(sees_prompt_PL, size, place + 1)),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            logits_PGV = self._model.get_output_embeddings()(hidden_PGD).float()
        ids = torch.stack(ids_TPG, dim=2).tolist()
        logps = torch.stack(logp_TPG, dim=2).tolist()
        return [[self._completion(i, lp) for i, lp in zip(*pair, strict=True)] for pair in zip(ids, logps, strict=True)]

    def _prefill(self, prompts: Sequence[TokenIds], lengths_P: Tensor, size: int) -> tuple[Tensor, DynamicCache]:
        """Each prompt once: the logits after it, the same for all its samples, and the cache."""
        widest = int(lengths_P.max())
        ids_PL = torch.tensor([[*prompt, *(0,) * (widest - len(prompt))] for prompt in prompts], device=self._device)
        cache = DynamicCache()
        hidden_PLD = self._model.get_decoder()(
            input_ids=ids_PL, past_key_values=cache, use_cache=True
        ).last_hidden_state
        last_PD = hidden_PLD[torch.arange(len(prompts), device=self._device), lengths_P - 1]
        logits_PV = self._model.get_output_embeddings()(last_PD).float()
        return logits_PV[:, None].expand(-1, size, -1), cache

    def _completion(self, ids: list[int], logps: list[float]) -> Completion:
        stop = next((place for place, token in enumerate(ids) if token in self._eos_ids), None)
        length = len(ids) if stop is None else stop + 1
        return Completion(
            text=self._decode(ids[:length]),
            token_ids=tuple(ids[:length]),
            logprobs=tuple(logps[:length]),
            finish="length" if stop is None else "stop",
            version=self._version,
        )


def sample(logits_PGV: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One token per row and its log-probability in the distribution that was sampled from: ids and logp [P, G].

    Temperature 0 takes the most likely token, with probability 1.
    """
    if sampling.temperature == 0:
        ids_PG = logits_PGV.argmax(dim=-1)
        return ids_PG, torch.zeros(ids_PG.shape, device=ids_PG.device)
    logp_PGV = (logits_PGV / sampling.temperature).log_softmax(dim=-1)
    if sampling.top_p < 1:
        logp_PGV = _nucleus(logp_PGV, sampling.top_p)
    flat = torch.multinomial(logp_PGV.exp().flatten(0, 1), 1, generator=generator)
    ids_PG = flat.view(logp_PGV.shape[:2])
    return ids_PG, logp_PGV.gather(-1, ids_PG[..., None]).squeeze(-1)


def _nucleus(logp_PGV: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of tokens with probability `top_p`, renormalized."""
    sorted_PGV, order_PGV = logp_PGV.sort(dim=-1, descending=True)
    mass_before_PGV = sorted_PGV.exp().cumsum(dim=-1) - sorted_PGV.exp()
    kept_PGV = sorted_PGV.masked_fill(mass_before_PGV >= top_p, -torch.inf)
    return torch.full_like(logp_PGV, -torch.inf).scatter(-1, order_PGV, kept_PGV).log_softmax(dim=-1)


def _step_mask(sees_prompt_PL: Tensor, size: int, steps: int) -> Tensor:
    """Who sees what after `steps` decoded tokens: bool [P, 1, G, L + steps * G].

    Column L + s * G + g belongs to sample g.
    """
    prompt_PGL = sees_prompt_PL[:, None, :].expand(-1, size, -1)
    own_GG = torch.eye(size, dtype=torch.bool, device=sees_prompt_PL.device)
    own_PGL = own_GG.repeat(1, steps).expand(len(sees_prompt_PL), -1, -1)
    return torch.cat([prompt_PGL, own_PGL], dim=-1)[:, None]


def _attention_mask(model: Any, mask: Tensor) -> Tensor:
    """A boolean 4D mask in the form that the model's attention takes: SDPA as it is, eager as numbers to be added."""
    if model.config.get_text_config()._attn_implementation == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(model.dtype).min
    )
