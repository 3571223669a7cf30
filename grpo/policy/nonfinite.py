"""Updates with numbers that are not finite: how they are made visible, kept and counted."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grpo.batch import Batch
from grpo.errors import NonFiniteError, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFiniteLog:
    """The folder for rows of updates that were not finite, and how many in a row end the run."""

    folder: Path
    limit: int

    def save(
        self,
        batch: Batch,
        weights: Iterator[tuple[str, Tensor]],
        *,
        update: int,
        rank: int,
        in_a_row: int,
        dtype: str,
    ) -> None:
        """Write this rank's rows for `launch.replay`. NonFiniteError, on all ranks, at the limit.

        `dtype` is that of the matrix products, which the weights need not have.
        """
        about = {"update": update, "rank": rank, "weights": weights_hash(weights), "dtype": dtype}
        file = save_rows(batch, self.folder, f"update-{update:06d}-rank-{rank}", about)
        logger.warning("not finite   update %d is skipped; its rows: %s", update, file)
        if in_a_row >= self.limit:
            raise NonFiniteError(
                f"{in_a_row} updates in a row were not finite (checkpoint.max_nonfinite_updates = {self.limit}); "
                f"where to look: python -m launch.replay {file}",
                all_ranks=True,
            )


def nan_if_nonfinite(loss: Tensor, logp_BC: Tensor) -> Tensor:
    """Return the loss, or NaN if it or a log-probability is not finite, so that no rank has a finite gradient.

    An infinite loss can have a finite gradient on one rank; NaN has none on any, so all ranks skip the step.
    """
    is_finite = bool(torch.isfinite(loss)) and bool(torch.isfinite(logp_BC).all())
    return loss if is_finite else loss * torch.nan


def weights_hash(weights: Iterator[tuple[str, Tensor]]) -> str:
    """Hash names and values bit by bit, behind the format that the weights are held in: `bfloat16-...`.

    Weights that ZeRO trains in bfloat16 have float32 masters in their checkpoints.
    """
    digest, dtype = xxhash.xxh3_128(), ""
    for name, tensor in weights:
        dtype = dtype or str(tensor.dtype).removeprefix("torch.")
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{dtype}-{digest.hexdigest()}"


def save_rows(batch: Batch, folder: Path, name: str, about: Mapping[str, Any]) -> Path:
    """Write the batch as safetensors, under a name that is free, with `about` as JSON in its metadata."""
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
    """(batch, about) of a file that `save_rows` wrote. UserError for any other file."""
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
