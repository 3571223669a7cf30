"""What is kept of a run: whole model folders, never half ones."""

import shutil
from pathlib import Path
from typing import Any

from grpo.checkpointing.store import flush
from grpo.distributed.communicator import Alone, Comm
from grpo.errors import UserError
from grpo.policy.base import PolicyEngine


def save_model_folder(policy: PolicyEngine, tokenizer: Any, path: Path, comm: Comm | None = None) -> None:
    """Weights, configuration and tokenizer, written beside `path`, flushed to disk, then renamed to it.

    The folder loads with `AutoModelForCausalLM.from_pretrained` and with vLLM. Every rank calls this and rank 0 writes.
    UserError if `path` exists.
    """
    comm = comm or Alone()
    building = path.with_name(f".{path.name}.writing")
    comm.lead(lambda: _make_way(path, building))
    policy.save(building)
    comm.lead(lambda: _finish(tokenizer, building, path))


def _make_way(path: Path, building: Path) -> None:
    if path.exists():
        raise UserError(f"{path}: exists and is not overwritten")
    if building.exists():
        shutil.rmtree(building)  # what an interrupted save left; only this module makes such a folder
    building.mkdir(parents=True)


def _finish(tokenizer: Any, building: Path, path: Path) -> None:
    tokenizer.save_pretrained(building)
    for file in building.iterdir():
        flush(file)
    flush(building)
    building.rename(path)
    flush(path.parent)
