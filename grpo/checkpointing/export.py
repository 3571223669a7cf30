"""Export of a trained model as a folder that transformers and vLLM load."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from grpo.checkpointing.atomic_directory import atomic_directory
from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.policy.engine import Policy


def save_model_folder(policy: Policy, tokenizer: Any, path: Path, comm: Communicator) -> None:
    """Write weights, configuration and tokenizer to `path`, complete or not at all.

    All ranks call this function and rank 0 writes. UserError where `path` exists.
    """

    def create() -> Path:
        if path.exists():
            raise UserError(f"{path}: exists and is not overwritten")
        return on_exit.enter_context(atomic_directory(path))

    with ExitStack() as on_exit:
        work = comm.on_rank0(create)
        policy.save(work)
        comm.on_rank0(lambda: bool(tokenizer.save_pretrained(work)))
    comm.barrier()  # the folder has its name on all ranks from here on
