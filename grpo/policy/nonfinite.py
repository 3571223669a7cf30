"""A policy engine around another one: counts the updates that were not finite, and keeps their rows.

The engines leave the weights alone where a loss, a log-probability or a gradient is not finite. Here the rows of such
an update are kept for `python -m launch.replay`, and several in a row end the training.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grpo.batch import Batch
from grpo.distributed.communicator import Communicator
from grpo.errors import NonFiniteError, UserError
from grpo.losses import Loss, Stats
from grpo.policy.base import Delegate, PolicyEngine


class Guarded(Delegate):
    """`PolicyEngine` that keeps the rows of every update that was not finite in `folder`, and raises NonFiniteError at
    the `limit`-th in a row, on all ranks together."""

    def __init__(
        self,
        policy: PolicyEngine,
        *,
        folder: Path,
        limit: int,
        comm: Communicator,
        tell: Callable[[str], None],
        dtype: str = "float32",
    ) -> None:
        """`dtype` is that of the policy's products, which its weights need not have."""
        super().__init__(policy)
        self._folder, self._limit, self._comm, self._tell = folder, limit, comm, tell
        self._dtype, self._row = dtype, 0

    def update(self, batch: Batch, loss: Loss) -> Stats:
        number = self._policy.num_updates
        stats = self._policy.update(batch, loss)
        if not stats.get("nonfinite"):
            self._row = 0
            return stats
        self._row += 1
        weights = weights_hash(self._policy.export_weights())
        about = {"update": number, "rank": self._comm.rank, "weights": weights, "dtype": self._dtype}
        file = save_rows(batch, self._folder, f"update-{number:06d}-rank-{self._comm.rank}", about)
        self._tell(f"not finite   update {number}: the weights stay as they are; its rows: {file}")
        if self._row >= self._limit:
            raise NonFiniteError(
                f"{self._row} updates in a row were not finite (checkpoint.max_nonfinite_updates = {self._limit}); "
                f"where to look: python -m launch.replay {file}",
                all_ranks=True,
            )
        return stats

    def state_dict(self) -> dict[str, int]:
        """How many updates in a row were not finite."""
        return {"row": self._row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._row = state["row"]


def nan_if_nonfinite(loss: Tensor, logp_BC: Tensor) -> Tensor:
    """The loss; NaN where it, or a log-probability that it was made of, is not finite, and so is then every gradient.

    A loss of infinity can have a finite gradient on one rank; this one is not finite on any, so all skip the step.
    """
    fine = bool(torch.isfinite(loss)) and bool(torch.isfinite(logp_BC).all())
    return loss if fine else loss * torch.nan


def weights_hash(weights: Iterator[tuple[str, Tensor]]) -> str:
    """Tells one state of the weights from another: names and values, bit by bit, behind the number format that they
    are held in, `bfloat16-...`: what ZeRO trains in bfloat16 has float32 masters in its checkpoints."""
    digest, dtype = xxhash.xxh3_128(), ""
    for name, tensor in weights:
        dtype = dtype or str(tensor.dtype).removeprefix("torch.")
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{dtype}-{digest.hexdigest()}"


def save_rows(batch: Batch, folder: Path, name: str, about: Mapping[str, Any]) -> Path:
    """The batch as safetensors, under a name that is free; `about` as JSON in its metadata."""
    folder.mkdir(exist_ok=True, parents=True)
    names = [name, *(f"{name}-{number}" for number in range(2, 10_000))]
    file = next(file for file in (folder / f"{name}.safetensors" for name in names) if not file.exists())
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "prompts"}
    tensors = {key: value.contiguous() for key, value in tensors.items() if value is not None}
    tensors["prompt_ids"] = torch.tensor([token for prompt in batch.prompts for token in prompt], dtype=torch.long)
    tensors["prompt_lengths"] = torch.tensor([len(prompt) for prompt in batch.prompts], dtype=torch.long)
    save_file(tensors, file, metadata={"about": json.dumps(dict(about))})
    return file


def load_rows(file: Path) -> tuple[Batch, dict[str, Any]]:
    """What `save_rows` wrote: (batch, about). UserError for anything else."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
            about = json.loads((opened.metadata() or {})["about"])
        ids, lengths = tensors.pop("prompt_ids").tolist(), tensors.pop("prompt_lengths").tolist()
        ends = [sum(lengths[: place + 1]) for place in range(len(lengths))]
        prompts = tuple(tuple(ids[end - length : end]) for end, length in zip(ends, lengths, strict=True))
        return Batch(prompts=prompts, **tensors), about
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read as the rows of an update: {error!r}") from None
