"""The tensors of a step: completion tokens only, since the layout of the model's input belongs to the policy.

B rows (completions), C completion positions (the longest row), right padding that nothing reads.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from grpo.types import Completion, Group, TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The rows of one optimizer step or of a part of it.

    Two prompts, the first with completions of 3 and 1 tokens, the second with one of 2:
    `prompts=((5, 6), (7,)), group_B=[0, 0, 1], ids_BC=[[8, 9, 2], [2, 0, 0], [8, 2, 0]],
    learn_BC=[[1, 1, 1], [1, 0, 0], [1, 1, 0]]`. The stop token (2) is learnt, even where its id is that of
    the padding.
    """

    prompts: tuple[TokenIds, ...]  # ragged
    group_B: Tensor  # int64: which prompt a row continues
    ids_BC: Tensor  # int64: completion tokens, right padded
    learn_BC: Tensor  # bool: from lengths, never from pad ids
    advantage_B: Tensor  # float32
    sampler_logp_BC: Tensor  # float32: as the rollout engine reported them
    old_logp_BC: Tensor | None = None  # None: one update per rollout, and the gradient pass gives the old values itself
    ref_logp_BC: Tensor | None = None  # None: no reference model
    weight_BC: Tensor | None = None  # float32: the whole of the averaging, see `losses.token_weights`
    unit_B: Tensor | None = None  # int64: rows of one unit share a micro-batch (a DPO pair); None: every row is alone

    @property
    def lengths_B(self) -> Tensor:
        """Completion tokens per row, int64 [B]."""
        return self.learn_BC.sum(dim=1)

    def rows(self, index: Sequence[int]) -> "Batch":
        """Return these rows in this order, with only the prompts they continue and only the columns they need."""
        picked = torch.tensor(list(index), dtype=torch.long)
        groups = list(dict.fromkeys(self.group_B[picked].tolist()))
        renumber = {group: place for place, group in enumerate(groups)}
        width = int(self.lengths_B[picked].max()) if len(index) else 0
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "prompts"}
        cut = {
            name: value[picked] if value.ndim == 1 else value[picked, :width]
            for name, value in tensors.items()
            if value is not None
        }
        cut["group_B"] = torch.tensor([renumber[group] for group in cut["group_B"].tolist()], dtype=torch.long)
        return replace(self, prompts=tuple(self.prompts[group] for group in groups), **cut)

    def with_fixed_logprobs(self, logprobs: Callable[..., Tensor], *, old: bool, reference: bool) -> "Batch":
        """Return the batch with the log-probabilities that its updates do not change, from `Policy.logprobs`.

        Without a reference, rows of advantage 0 are not updated on, and their old log-probabilities stay 0.
        """
        batch = self
        if old:
            rows = torch.arange(len(self.group_B)) if reference else torch.nonzero(self.advantage_B).flatten()
            old_BC = logprobs(self.rows(rows.tolist()))
            old_logp_BC = torch.zeros(self.ids_BC.shape)
            old_logp_BC[rows, : old_BC.shape[1]] = old_BC
            batch = replace(batch, old_logp_BC=old_logp_BC)
        return replace(batch, ref_logp_BC=logprobs(batch, reference=True)) if reference else batch

    def minibatches(self, count: int, *, seed: int) -> "Iterator[Batch]":
        """Yield the batch itself, or its groups shuffled into `count` parts of nearly equal size."""
        if count == 1:
            yield self
            return
        order = list(range(len(self.prompts)))
        random.Random(seed).shuffle(order)
        for start in range(count):
            chosen = set(order[start::count])
            yield self.rows([b for b, group in enumerate(self.group_B.tolist()) if group in chosen])


def collate(groups: Sequence[Group], advantages_PG: Tensor) -> Batch:
    """Return one batch of P*G rows, group by group, from groups and their advantages [P, G]."""
    completions: list[Completion] = [completion for group in groups for completion in group.completions]
    group_B = [place for place, group in enumerate(groups) for _ in group.completions]
    if advantages_PG.numel() != len(completions):
        raise ValueError(f"{advantages_PG.numel()} advantages for {len(completions)} completions")
    for group in groups:
        if any(not completion.token_ids for completion in group.completions):
            raise ValueError(
                f"example {group.example.id}: a completion without tokens; even an empty answer has a stop"
            )
    width = max((len(completion.token_ids) for completion in completions), default=0)

    def padded(rows: Sequence[tuple[float, ...]], dtype: torch.dtype) -> Tensor:
        return torch.tensor([(*row, *(0,) * (width - len(row))) for row in rows], dtype=dtype).view(len(rows), width)

    return Batch(
        prompts=tuple(group.prompt_ids for group in groups),
        group_B=torch.tensor(group_B, dtype=torch.long),
        ids_BC=padded([completion.token_ids for completion in completions], torch.long),
        learn_BC=padded([(True,) * len(completion.token_ids) for completion in completions], torch.bool),
        advantage_B=advantages_PG.reshape(-1).float(),
        sampler_logp_BC=padded([completion.logprobs for completion in completions], torch.float32),
    )
