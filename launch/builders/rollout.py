"""The [rollout] section of a recipe -> the engine that samples completions, and why it is that one."""

import importlib.util
import math
import os
from typing import Any, Literal

from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.rollout.base import RolloutEngine
from grpo.settings import RolloutConfig
from grpo.telemetry.console import Console
from launch.builders.models import check_context, device, load_model, load_shell
from launch.builders.policy import Dtype
from launch.builders.prompts import PromptCodec

Engine = Literal["hf", "vllm", "server"]


def choose_rollout(config: RolloutConfig, folder: str, console: Console, *, fixed: bool = False) -> Engine:
    """Return the engine for the model in `folder`, and print why it is that one. No weights are loaded.

    `fixed` weights never change, as in an evaluation. Raises UserError where the section asks for an engine that cannot
    be.
    """
    engine = wanted = config.engine
    why, why_not = "as the recipe asks", "" if wanted in ("hf", "server") else _not_vllm(folder)
    if wanted == "vllm" and why_not:
        raise UserError(f'rollout.engine = "vllm": {why_not}; valid here: "hf", or "auto"')
    if fixed:
        refuse_server(config)
    if engine == "auto":
        why_not = why_not or _slow_vllm()
        engine = "hf" if why_not else "vllm"
        why = f"auto, since {why_not or 'vLLM is installed and knows the model'}"
    if engine == "hf" and config.tensor_parallel > 1 and not fixed:
        raise UserError(f"rollout.tensor_parallel = {config.tensor_parallel} is for vLLM, and {why_not}; valid: 1")
    console.line(f"rollouts     {engine}: {why}")
    return engine


def refuse_server(config: RolloutConfig) -> None:
    """Raise UserError for an engine that waits for weights, in a command that sends none."""
    if config.engine == "server":
        raise UserError(
            'rollout.engine = "server" is for training, which sends it weights; valid here: "auto", "hf" or "vllm"'
        )


def make_rollout(
    engine: Engine,
    config: RolloutConfig,
    folder: str,
    *,
    codec: PromptCodec,
    context: int,
    dtype: Dtype,
    console: Console,
    comm: Communicator,
    own_workers: bool = False,
) -> RolloutEngine:
    """Return the engine over the weights in `folder`. `dtype` is vLLM's: the trainer's, so that only rounding differs.

    `context` is the longest prompt and completion together, in tokens. With `own_workers` vLLM has a process for each
    GPU, for weights that never change.
    """
    console.status(f"loading the rollout engine, {engine} on {folder}")
    if engine == "server":
        return _server(config, folder, console, comm)
    model: Any = load_model(folder, device=device()) if engine == "hf" else load_shell(folder)
    check_context(context, model, folder)
    about = {"decode": codec.decode, "eos_ids": codec.stop_ids, "progress": console.status}
    if engine == "hf":
        from grpo.rollout.hf import HfRollout

        return HfRollout(model, rows=config.max_num_seqs, **about)
    from grpo.rollout.vllm import VllmRollout, start_vllm

    llm = start_vllm(
        folder,
        context=context,
        rows=config.max_num_seqs,
        dtype=dtype,
        memory=config.gpu_memory_utilization,
        kv_cache=config.cpu_kv_cache_gib,
        tensor_parallel=config.tensor_parallel,
        own_workers=own_workers,
    )
    return VllmRollout(llm, shapes=shapes_of(folder), **about)


def _server(config: RolloutConfig, folder: str, console: Console, comm: Communicator) -> RolloutEngine:
    from grpo.rollout.remote import RemoteRollout

    return RemoteRollout(
        server_address(config),
        shapes=shapes_of(folder),
        timeout=config.timeout,
        comm=comm,
        progress=console.status,
    )


def server_address(config: RolloutConfig) -> Any:
    """Return the `grpo.rollout.server.Address`. Its token is no part of a recipe, since recipes are saved."""
    from grpo.rollout.server import Address

    return Address(config.port, config.host, os.environ.get("GROUND_GRPO_TOKEN", ""))


def shapes_of(folder: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter that the trainer sends to a rollout engine, tied ones once."""
    return {name: tuple(parameter.shape) for name, parameter in load_shell(folder).named_parameters()}


def model_bytes(folder: str) -> int:
    """Return the bytes of the model's weights on the disk, in float32."""
    return 4 * sum(math.prod(shape) for shape in shapes_of(folder).values())


def auto_engine() -> Literal["hf", "vllm"]:
    """Return what "auto" is on this machine without a GPU, for a model that vLLM knows."""
    return "hf" if importlib.util.find_spec("vllm") is None or _slow_vllm() else "vllm"


def _slow_vllm() -> str:
    """Return why vLLM could but should not sample here; empty where it should."""
    import torch

    if torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return ""
    return "vLLM's CPU build wants AVX-512: with AVX2 it gains nothing on short answers (benchmarks/results)"


def _not_vllm(folder: str) -> str:
    """Return why vLLM cannot sample from this model here, in a few words; empty where it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    from grpo.rollout.vllm import unsupported

    config: Any = load_shell(folder).config
    text = config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return unsupported((config.architectures or ["a model without a named architecture"])[0], head_size)
