"""Rollouts with vLLM inside the trainer's process, on GPUs or with its CPU build.

All samples of a prompt are one request, so that the prompt is prefilled once. New weights are handed over tensor by
tensor in memory, and all caches of the old ones are reset.

Each rank has its own engine; with tensor parallelism, that many neighbouring ranks share one.
"""

import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from grpo.errors import EngineDied, StaleWeights, UserError
from grpo.rollout.base import check_weights
from grpo.rollout.vllm_shared_memory import unique_shared_memory
from grpo.types import Completion, Sampling, TokenIds

ENVIRONMENT = {  # read by vLLM when it is imported or started; the user's own values stay
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, where the weights are
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are about speed, and some are repeated with every weight update
    "VLLM_NO_USAGE_STATS": "1",
}


def unsupported(architecture: str, head_size: int) -> str:
    """Why the installed vLLM cannot run such a model, in a few words; "" where it can."""
    _prepare()
    from vllm import ModelRegistry
    from vllm.platforms import current_platform

    if architecture not in ModelRegistry.get_supported_archs():
        return f"vLLM does not know {architecture}"
    if current_platform.is_cpu():
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        sizes = CPUAttentionBackend.get_supported_head_sizes()
        if head_size not in sizes:
            return f"vLLM's CPU build has no attention heads of size {head_size}, only {', '.join(map(str, sizes))}"
    return ""


def start_vllm(
    folder: str,
    *,
    context: int,
    rows: int,
    dtype: Literal["float32", "bfloat16"],
    memory: float,
    kv_cache: float,
    tensor_parallel: int = 1,
    own_workers: bool = False,
) -> Any:
    """Start a `vllm.LLM` over the model in `folder`, for at most `rows` completions at once.

    On GPUs `memory` is its share of each while it is awake, for weights and KV cache; on a CPU `kv_cache` is the size
    of the KV cache in GiB. Only one engine per process: vLLM's global state is destroyed with the first that is freed.

    UserError where vLLM refuses the model or these numbers.
    """
    ranks = 1 if own_workers else _ranks(tensor_parallel)
    _prepare()
    from vllm import LLM
    from vllm.platforms import current_platform

    gpu = not current_platform.is_cpu()
    with _starting(folder), nullcontext() if gpu or ranks == 1 else unique_shared_memory():
        return LLM(
            model=folder,
            trust_remote_code=False,
            max_model_len=context,
            max_num_seqs=rows,
            kv_cache_memory_bytes=None if gpu else int(kv_cache * 2**30),
            gpu_memory_utilization=memory,
            tensor_parallel_size=tensor_parallel,
            distributed_executor_backend="external_launcher" if ranks > 1 else "mp" if tensor_parallel > 1 else None,
            **engine_settings(dtype, gpu=gpu),
        )


def engine_settings(dtype: Literal["float32", "bfloat16"], *, gpu: bool) -> dict[str, Any]:
    """Return the settings of `vllm.LLM` that every engine has, and that keep it the policy which the trainer trains."""
    return {
        "load_format": "safetensors",  # never a pickle
        "skip_tokenizer_init": True,  # token ids in, token ids out
        "dtype": dtype,
        # The trainer's head is float32. vLLM's would be bfloat16, 0.019 nats a token away; on a GPU float32 is free.
        "hf_overrides": {"head_dtype": "float32"} if gpu and dtype == "bfloat16" else {},
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled from
        "generation_config": "vllm",  # a model's own defaults, such as a repetition penalty, would change the policy
        "enable_sleep_mode": gpu,
        "enforce_eager": not gpu,  # on a CPU compiling takes minutes and gains little
        "use_tqdm_on_load": False,
        "seed": 0,
    }


def _ranks(tensor_parallel: int) -> int:
    """The number of ranks; UserError where `tensor_parallel` does not divide it."""
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if ranks % tensor_parallel:
        raise UserError(
            f"rollout.tensor_parallel = {tensor_parallel} does not divide the {ranks} rank{'s' * (ranks > 1)}; valid: "
            + ", ".join(str(n) for n in range(1, ranks + 1) if ranks % n == 0)
        )
    return ranks


class VllmRollout:
    """`RolloutEngine` over a `vllm.LLM` that runs in this process."""

    def __init__(
        self,
        llm: Any,
        *,
        shapes: Mapping[str, tuple[int, ...]],
        decode: Callable[[Sequence[int]], str],
        eos_ids: Sequence[int],
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`shapes` are the trainer's parameters by name: what every `load` must bring. `decode` is as for HfRollout."""
        if not eos_ids:
            raise ValueError("without a stop token every completion would run to the limit")
        self._llm, self._shapes = llm, shapes
        self._decode, self._eos_ids, self._progress = decode, list(eos_ids), progress
        self._version, self._asleep, self._consistent = -1, set[str](), True

    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        """Wake, update the weights, reset the caches; StaleWeights also where the prefix cache is not reset.

        A failed update leaves layers of two versions, and the engine is unusable. vLLM waits for all parts of a layer
        (q, k and v) before it copies any: no tensor may be a buffer that is reused for the next.
        """
        self._check_consistent()
        self._consistent = False
        self._wake("weights")
        self._llm.collective_rpc(_drop_packed_ties)
        self._update_weights(check_weights(weights, self._shapes, version=version))
        self._llm.collective_rpc(_pack_ties)
        self._wake("kv_cache")  # only now: the push may need the room
        if not self._llm.reset_prefix_cache():
            raise StaleWeights(
                f"vLLM kept its prefix cache when weights {version} came: prompts would be read with the old ones"
            )
        self._version, self._consistent = version, True

    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        from vllm import SamplingParams

        self._check_consistent()
        if self._asleep:
            raise StaleWeights("vLLM is asleep without weights: it samples nothing until the next load")
        self._progress(f"rollout: {len(prompts)} prompts x {sampling.group_size} with vLLM")
        stream = random.Random(seed)  # a seed per prompt: its samples do not depend on the other prompts
        requests, first = self._gather([(tuple(prompt), stream.getrandbits(62)) for prompt in prompts])
        greedy = sampling.temperature == 0
        settings = [
            SamplingParams(
                n=sampling.group_size,
                temperature=sampling.temperature,
                top_p=1.0 if greedy else sampling.top_p,
                max_tokens=sampling.max_tokens,
                stop_token_ids=self._eos_ids,
                logprobs=0,  # the sampled token's and no other
                flat_logprobs=True,
                detokenize=False,
                seed=own,  # sample g takes own + g
            )
            for _, own in requests
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt, _ in requests]
        try:
            written = self._llm.generate(inputs, settings, use_tqdm=False)[first : first + len(prompts)]
        except Exception as error:  # any error of vLLM; with several engines, the failure detector ends all ranks
            if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
                raise
            raise EngineDied(f"vLLM has died: {type(error).__name__}: {_line(error)}") from error
        return [
            [self._completion(output, greedy) for output in sorted(one.outputs, key=lambda output: output.index)]
            for one in written
        ]

    def release(self) -> None:
        """On GPUs free weights and cache, which the next `load` brings back. On a CPU do nothing."""
        if self._llm.llm_engine.vllm_config.model_config.enable_sleep_mode and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep = {"weights", "kv_cache"}

    def _check_consistent(self) -> None:
        if not self._consistent:
            raise StaleWeights(
                f"vLLM has weights of two versions, since the update after {self._version} was interrupted; valid: a "
                "restart (of a server: stop it, and `python launch/serve.py RECIPES` again)"
            )

    def _wake(self, part: Literal["weights", "kv_cache"]) -> None:
        if part in self._asleep:
            torch.cuda.empty_cache()  # vLLM needs the memory that the trainer's allocator keeps
            self._llm.wake_up(tags=[part])
            self._asleep.remove(part)

    def _update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})

    def _gather(self, asked: list[tuple[TokenIds, int]]) -> tuple[list[tuple[TokenIds, int]], int]:
        """The requests of all ranks that share this engine, the same on each of them, and where this rank's begin."""
        parallel = self._llm.llm_engine.vllm_config.parallel_config
        if parallel.tensor_parallel_size == 1 or parallel.distributed_executor_backend == "mp":
            return asked, 0
        from vllm.distributed.parallel_state import get_tp_group

        group = get_tp_group()
        everyone: list[Any] = [None] * group.world_size
        torch.distributed.all_gather_object(everyone, asked, group=group.cpu_group)
        return [one for part in everyone for one in part], sum(map(len, everyone[: group.rank_in_group]))

    def _completion(self, output: Any, greedy: bool) -> Completion:
        ids = tuple(output.token_ids)
        # A greedy choice has probability 1; vLLM reports the probability at temperature 1.
        logprobs = (0.0,) * len(ids) if greedy else tuple(output.logprobs.logprobs)
        if output.finish_reason not in ("stop", "length"):  # an aborted request is no short answer
            raise EngineDied(f"vLLM ended a completion with finish_reason = {output.finish_reason!r}")
        return Completion(
            text=self._decode(ids),
            token_ids=ids,
            logprobs=logprobs,
            finish=output.finish_reason,
            version=self._version,
        )


def _prepare() -> None:
    """Set the environment that vLLM needs, and import it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] != "0":
        raise UserError("VLLM_ENABLE_V1_MULTIPROCESSING must be 0 or unset: weights are handed over within the process")
    # At its start vLLM reads every attribute of torch.distributed, also one that warns.
    warnings.filterwarnings("ignore", message=".*reduce_op", category=FutureWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from vLLM's own imports
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            from vllm.triton_utils import dispatcher

            # Compiling would serve one comparison, take half a minute and need a C++ compiler.
            current_platform.simple_compile_backend = "eager"
            # vLLM searches the attributes of all imported modules for kernels, and fails on a library of llvmlite
            # (below numba, below bm25s) that takes any attribute for a C function, __dict__ too.
            dispatcher.__dict__["vars"] = _attributes
        import vllm.entrypoints.llm  # noqa: F401


@contextmanager
def _starting(folder: str) -> Iterator[None]:
    """Keep the trainer's number of threads, and turn vLLM's refusals into UserErrors.

    vLLM's worker forbids torch.set_num_threads on a CPU, and sets one thread elsewhere.
    """
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    try:
        yield
    except ValueError as error:  # vLLM's error for a model or a number that it cannot serve
        raise UserError(f"rollout.engine = 'vllm' cannot start on {folder}: {_line(error)}") from error
    finally:
        torch.set_num_threads = set_threads
        set_threads(threads)


def _attributes(value: object) -> Mapping[str, Any]:
    found: object = vars(value)
    return found if isinstance(found, Mapping) else {}


def _ties(worker: Any) -> list[tuple[Any, Any]]:
    """(embedding, head) pairs that share one matrix, of which the CPU build packs copies."""
    layers: dict[int, list[Any]] = {}
    for layer in worker.model_runner.get_model().modules():
        weight = layer._parameters.get("weight")
        if weight is not None and hasattr(layer, "cpu_linear"):
            layers.setdefault(id(weight), []).append(layer)
    return [(pair[0], pair[1]) for pair in layers.values() if len(pair) == 2]


def _drop_packed_ties(worker: Any) -> None:
    """Free the packed copies before an update, which makes new ones: this bounds the memory."""
    for embedding, head in _ties(worker):
        embedding.cpu_linear = head.cpu_linear = None


def _pack_ties(worker: Any) -> None:
    """Pack the tied heads again: a reload packs only the layers that it loads, so these heads would stay stale.

    The embedding's own packed copy is never used.
    """
    for embedding, head in _ties(worker):
        embedding.cpu_linear = None
        head.quant_method.process_weights_after_loading(head)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
