"""Which engine writes the completions, and why; from a recipe and a model folder to the engine itself."""

import importlib.util
from typing import Any

from grpo.rollout.base import RolloutEngine
from grpo.runlog import Console
from grpo.types import InputError
from launch.assemble import Speech, check_positions, device
from launch.models import load_model, load_shell, stop_ids
from launch.recipe import Recipe, Setup


def choose_rollout(recipe: Setup, folder: str, console: Console) -> str:
    """The engine for the model in `folder`, "hf" or "vllm"; says which, and why it is that one.

    InputError where the recipe asks for one that cannot be. No weights are loaded.
    """
    engine = wanted = recipe.rollout.engine
    why, why_not = "as the recipe asks", "" if wanted == "hf" else _not_vllm(folder)
    if wanted == "vllm" and why_not:
        raise InputError(f'rollout.engine = "vllm": {why_not}; valid here: "hf", or "auto"')
    if wanted == "auto":
        engine = "hf" if why_not else "vllm"
        why = f"auto, since {why_not or 'vLLM is installed and knows the model'}"
    console.line(f"rollouts     {engine}: {why}")
    return engine


def make_rollout(engine: str, recipe: Setup, folder: str, speech: Speech, console: Console) -> RolloutEngine:
    """The engine that `choose_rollout` named, over the weights in `folder`."""
    console.status(f"loading the rollout engine, {engine} on {folder}")
    return (_vllm if engine == "vllm" else _hf)(recipe, folder, speech, console)


def _hf(recipe: Setup, folder: str, speech: Speech, console: Console) -> RolloutEngine:
    from grpo.rollout.hf import HfRollout

    model = load_model(folder, device=device())
    check_positions(recipe, model, folder)
    return HfRollout(
        model,
        decode=speech.decode,
        eos_ids=stop_ids(model, speech.tokenizer),
        rows=recipe.rollout.rows,
        progress=console.status,
    )


def _vllm(recipe: Setup, folder: str, speech: Speech, console: Console) -> RolloutEngine:
    import torch

    from grpo.policy.single import fast_bf16
    from grpo.rollout.vllm import VllmRollout, start_vllm

    wanted, shell = recipe.rollout, load_shell(folder)
    check_positions(recipe, shell, folder)
    dtype = recipe.policy.dtype  # the trainer's: what the two round differently is what policy/mismatch measures
    if dtype == "auto":
        dtype = "bfloat16" if fast_bf16(torch.device(device())) else "float32"
    llm = start_vllm(
        folder,
        context=recipe.model.context,
        rows=wanted.rows,
        dtype=dtype,
        memory=wanted.memory,
        kv_cache=wanted.kv_cache,
        # an evaluation is one process, whatever the model's recipe says for training
        tensor_parallel=wanted.tensor_parallel if isinstance(recipe, Recipe) else 1,
    )
    return VllmRollout(
        llm,
        shapes={name: tuple(parameter.shape) for name, parameter in shell.named_parameters()},
        decode=speech.decode,
        eos_ids=stop_ids(shell, speech.tokenizer),
        progress=console.status,
    )


def _not_vllm(folder: str) -> str:
    """Why vLLM cannot write this model's completions here, in a few words; empty where it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    from grpo.rollout.vllm import unsupported

    config: Any = load_shell(folder).config
    text = config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return unsupported((config.architectures or ["a model without a named architecture"])[0], head_size)
