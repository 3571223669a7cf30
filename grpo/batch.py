"""Groups -> tensors. Completion tokens only: how the model is run over them is the engine's business.

B rows (completions), C completion positions (the longest row), right padding that nothing ever reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from grpo.types import Completion, Group, TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one optimizer step learns from.

    Two prompts, the first with completions of 3 and 1 tokens, the second with one of 2:
    `prompts=((5, 6), (7,)), group_B=[0, 0, 1], ids_BC=[[8, 9, 2], [2, 0, 0], [8, 2, 0]],
    learn_BC=[[1, 1, 1], [1, 0, 0], [1, 1, 0]]`. The stop token (2) is learnt even where it equals the padding id.
    """

    prompts: tuple[TokenIds, ...]  # ragged
    group_B: Tensor  # int64: which prompt a row continues
    ids_BC: Tensor  # int64: completion tokens, right padded
    learn_BC: Tensor  # bool: from lengths, never from pad ids
    advantage_B: Tensor  # float32
    sampler_logp_BC: Tensor  # float32: as the rollout engine reported them
    old_logp_BC: Tensor | None = None  # None: one update per rollout, the gradient pass's own values are the old ones
    ref_logp_BC: Tensor | None = None  # None: kl = 0
    weight_BC: Tensor | None = None  # float32: the whole of the averaging, see `objective.token_weights`

    @property
    def lengths_B(self) -> Tensor:
        """Completion tokens per row, int64 [B]."""
        return self.learn_BC.sum(dim=1)

    def rows(self, index: Sequence[int]) -> "Batch":
        """The given rows, in that order, with only the prompts they continue and only the columns they need."""
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


def collate(groups: Sequence[Group], advantages_PG: Tensor) -> Batch:
    """Groups with their advantages [P, G] -> one batch of P*G rows, group by group."""
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
