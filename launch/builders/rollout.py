"""Which engine writes the completions, and why; from a recipe and a model folder to the engine itself."""

import importlib.util
import math
import os
from typing import Any, Literal

from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.rollout.base import RolloutEngine
from grpo.telemetry.console import Console
from launch.builders.assemble import Speech, check_positions
from launch.builders.models import load_model, load_shell, stop_ids
from launch.builders.precision import device, precision
from launch.config.recipe import Recipe


def choose_rollout(recipe: Recipe, folder: str, console: Console, *, fixed: bool = False) -> str:
    """The engine for the model in `folder`, "hf", "vllm" or "server"; says which, and why it is that one.

    UserError where the recipe asks for one that cannot be. No weights are loaded.
    """
    engine = wanted = recipe.rollout.engine
    why, why_not = "as the recipe asks", "" if wanted in ("hf", "server") else _not_vllm(folder)
    if wanted == "vllm" and why_not:
        raise UserError(f'rollout.engine = "vllm": {why_not}; valid here: "hf", or "auto"')
    if fixed:
        refuse_server(recipe)
    if wanted == "auto":
        why_not = why_not or _slow_vllm()
        engine = "hf" if why_not else "vllm"
        why = f"auto, since {why_not or 'vLLM is installed and knows the model'}"
    parallel = recipe.rollout.tensor_parallel
    if engine == "hf" and parallel > 1 and not fixed:
        raise UserError(f"rollout.tensor_parallel = {parallel} is for vLLM, and {why_not}; valid: 1")
    console.line(f"rollouts     {engine}: {why}")
    return engine


def refuse_server(recipe: Recipe) -> None:
    """UserError where the recipe's rollout engine is one that waits for weights, and nobody will send any."""
    if recipe.rollout.engine == "server":
        raise UserError(
            'rollout.engine = "server" is for training, which sends it weights; valid here: "auto", "hf" or "vllm"'
        )


def make_rollout(
    engine: str, recipe: Recipe, folder: str, speech: Speech, console: Console, comm: Communicator
) -> RolloutEngine:
    """The engine that `choose_rollout` named, over the weights in `folder`."""
    console.status(f"loading the rollout engine, {engine} on {folder}")
    if engine == "server":
        return _server(recipe, folder, console, comm)
    return {"hf": _hf, "vllm": make_vllm}[engine](recipe, folder, speech, console)


def make_fixed_rollout(engine: str, recipe: Recipe, folder: str, speech: Speech, console: Console) -> RolloutEngine:
    """An engine for weights that never change, alone on its GPUs: `eval.gpu_memory_utilization` of their memory, and
    processes of its own for `rollout.tensor_parallel` > 1."""
    console.status(f"loading the rollout engine, {engine} on {folder}")
    if engine == "hf":
        return _hf(recipe, folder, speech, console)
    share = recipe.eval.gpu_memory_utilization
    alone = recipe.replace(rollout=recipe.rollout.replace(gpu_memory_utilization=share))
    return make_vllm(alone, folder, speech, console, own_workers=True)


def _hf(recipe: Recipe, folder: str, speech: Speech, console: Console) -> RolloutEngine:
    from grpo.rollout.hf import HfRollout

    model = load_model(folder, device=device())
    check_positions(recipe, model, folder)
    return HfRollout(
        model,
        decode=speech.decode,
        eos_ids=stop_ids(model, speech.tokenizer),
        rows=recipe.rollout.max_num_seqs,
        progress=console.status,
    )


def _server(recipe: Recipe, folder: str, console: Console, comm: Communicator) -> RolloutEngine:
    from grpo.rollout.remote import RemoteRollout

    wanted, shapes = recipe.rollout, shapes_of(folder)
    return RemoteRollout(
        server_address(recipe),
        shapes=shapes,
        timeout=wanted.timeout,
        comm=comm,
        transfer=wanted.weight_transfer,
        device=device(),
        progress=console.status,
    )


def server_address(recipe: Recipe) -> Any:
    """The `grpo.rollout.server.Address` of the recipe's server; its token is no part of a recipe, which is kept."""
    from grpo.rollout.server import Address

    return Address(recipe.rollout.port, recipe.rollout.host, os.environ.get("GROUND_GRPO_TOKEN", ""))


def make_vllm(
    recipe: Recipe, folder: str, speech: Speech, console: Console, *, own_workers: bool = False
) -> RolloutEngine:
    """vLLM over the weights in `folder`, in this process or, with `own_workers`, in a process for each GPU."""
    from grpo.rollout.vllm import VllmRollout, start_vllm

    wanted, shell = recipe.rollout, load_shell(folder)
    check_positions(recipe, shell, folder)
    llm = start_vllm(
        folder,
        context=recipe.model.context,
        rows=wanted.max_num_seqs,
        dtype=precision(recipe),  # the trainer's: what the two round differently is what policy/mismatch measures
        memory=wanted.gpu_memory_utilization,
        kv_cache=wanted.cpu_kv_cache_gib,
        tensor_parallel=wanted.tensor_parallel,
        own_workers=own_workers,
    )
    return VllmRollout(
        llm,
        shapes=shapes_of(folder),
        decode=speech.decode,
        eos_ids=stop_ids(shell, speech.tokenizer),
        progress=console.status,
    )


def shapes_of(folder: str) -> dict[str, tuple[int, ...]]:
    """What a rollout engine for this model must be given: each parameter of the trainer, tied ones once."""
    return {name: tuple(parameter.shape) for name, parameter in load_shell(folder).named_parameters()}


def model_bytes(folder: str) -> int:
    """Bytes of the model's weights on the disk, in float32."""
    return 4 * sum(math.prod(shape) for shape in shapes_of(folder).values())


def writes_here() -> Literal["hf", "vllm"]:
    """Which engine "auto" comes to on this machine without a GPU, for a model that vLLM knows."""
    return "hf" if importlib.util.find_spec("vllm") is None or _slow_vllm() else "vllm"


def _slow_vllm() -> str:
    """Why vLLM could but should not write the completions here; empty where it should."""
    import torch

    if torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return ""
    return "vLLM's CPU build wants AVX-512: with AVX2 it gains nothing on short answers (benchmarks/results)"


def _not_vllm(folder: str) -> str:
    """Why vLLM cannot write this model's completions here, in a few words; empty where it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    from grpo.rollout.vllm import unsupported

    config: Any = load_shell(folder).config
    text = config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return unsupported((config.architectures or ["a model without a named architecture"])[0], head_size)
