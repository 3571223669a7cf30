"""Export of a trained model as a folder that transformers and vLLM load."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from grpo.checkpointing.atomic_directory import atomic_directory
from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.policy.engine import Policy


def save_model_folder(
    policy: Policy, tokenizer: Any, path: Path, comm: Communicator, *, stop_ids: Sequence[int]
) -> None:
    """Write weights, configurations and tokenizer to `path`, complete or not at all.

    The generation configuration names the tokens that the policy was trained to stop at. All ranks call this function
    and rank 0 writes. UserError where `path` exists.
    """

    def create() -> Path:
        if path.exists():
            raise UserError(f"{path}: exists and is not overwritten")
        return on_exit.enter_context(atomic_directory(path))

    def save_tokenizer(work: Path) -> None:
        tokenizer.save_pretrained(work)
        file = work / "generation_config.json"
        generation = json.loads(file.read_text(encoding="utf-8")) | {"eos_token_id": list(stop_ids)}
        file.write_text(json.dumps(generation, indent=2), encoding="utf-8")

    with ExitStack() as on_exit:
        work = comm.on_rank0(create)
        policy.save(work)
        comm.on_rank0(lambda: save_tokenizer(work))
    comm.barrier()  # the folder has its name on all ranks from here on
