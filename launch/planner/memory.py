"""The memory of one rank, part by part and phase by phase: pure functions of model, settings and devices.

P is the number of parameters, N the number of ranks. c is the bytes of a number in the policy's dtype: 2 for bfloat16,
4 for float32. GB is 1e9 bytes. A step has four phases, which need different parts: `sync` (new weights go to the
rollout engine), `rollout`, `backward` (all forward and backward passes), `step` (the optimizer).

Parts are counted from the tensors that the code allocates, or estimated by a rule of thumb (`Part.counted`). Nothing
here was measured on a GPU.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from grpo.errors import UserError
from launch.config.model_size import ModelSize

Offload = Literal["none", "optimizer", "all"]
PHASES = ("sync", "rollout", "backward", "step")

GB, GIB = 1e9, 2**30
ROOM = 0.95  # rule of thumb: the rest is for what the allocator cannot join together
RUNTIME = {"gpu": 3 * GB, "cpu": 0.6 * GB}  # rule of thumb: CUDA, NCCL, captured graphs; Python with torch
WORKSPACE = 4 * GB  # rule of thumb: what vLLM needs beside weights and cache at its default of 16,384 prefilled tokens
BUCKET = 50_000_000  # numbers that ZeRO reduces at once (grpo/policy/zero_config.py); two float32 buckets are held
LIVE = 1_000_000_000  # DeepSpeed's default: at most so many gathered numbers at once under stage 3
SUB_GROUP = 1_000_000_000  # DeepSpeed's default: so many numbers are stepped at once under stage 3
CHUNK = 64 * 2**20  # bytes of a chunk of logits (grpo/model/lm_head.py, CHUNK_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """The devices of the ranks: `Devices(kind="gpu", per_node=8, nodes=1, memory=80e9)` is 8 ranks."""

    kind: Literal["gpu", "cpu"]
    per_node: int  # ranks of a node: its GPUs, or the processes on its CPU
    nodes: int
    memory: float  # bytes of each rank that are free
    host: float | None = None  # bytes of a node's main memory; None: unknown, so not compared
    fast_bf16: bool = True  # whether dtype "auto" is bfloat16

    @property
    def ranks(self) -> int:
        return self.per_node * self.nodes

    @property
    def capacity(self) -> float:
        """Bytes that a rank can have at most: on a CPU also what other programs may give back."""
        return self.memory if self.kind == "gpu" or self.host is None else self.host / self.per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """The values of a recipe that memory depends on, with "auto" resolved."""

    zero_stage: int  # 0: one process without DeepSpeed
    offload: Offload
    dtype: Literal["float32", "bfloat16"]
    gradient_checkpointing: bool
    shared: bool  # layout: the prompt is in a row once per group
    token_budget: int  # model tokens of a micro-batch
    context: int  # tokens of prompt and completion
    max_tokens: int  # of a completion
    prompts: int  # of a step, on all ranks together
    group_size: int
    reference: bool  # kl_coef > 0
    rollout: Literal["hf", "vllm", "server"]
    max_num_seqs: int  # completions that the hf engine decodes at once
    gpu_memory_utilization: float  # vLLM's share of a GPU while it samples
    cpu_kv_cache_gib: float
    tensor_parallel: int  # ranks that hold one copy of vLLM's weights

    @property
    def width(self) -> int:
        """c: bytes of a number where the model runs."""
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def tokens(self) -> int:
        """Tokens of the largest micro-batch: a completion with its prompt runs even where the budget is smaller."""
        return max(self.token_budget, self.context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the plan, in bytes of one rank; `host` is main memory that a GPU's rank takes, in every phase."""

    name: str
    how: str  # the formula, short
    sync: float = 0.0
    rollout: float = 0.0
    backward: float = 0.0
    step: float = 0.0
    host: float = 0.0
    counted: bool = True  # from tensors that the code allocates, and not by a rule of thumb


def memory_plan(size: ModelSize, s: PlanSettings, d: Devices) -> list[Part]:
    """All parts of what one rank needs; where ranks differ, of the largest."""
    states = _zero_states(size, s, d) if s.zero_stage else _single_states(size, s, d)
    checkpoint = Part(name="checkpoint", how="12 P / N, from the first one on", host=12 * size.parameters / d.ranks)
    runtime = replace(_always("runtime", "rule of thumb", RUNTIME[d.kind]), counted=False)
    return [*states, _activations(size, s, d), _head(size, s), *_rollout(size, s, d), checkpoint, runtime]


def peak(parts: Iterable[Part], d: Devices) -> float:
    """Bytes of the largest phase; where the device is the CPU itself, offloaded parts count too."""
    parts = list(parts)
    host = sum(part.host for part in parts) if d.kind == "cpu" else 0.0
    return host + max(phase_bytes(parts, phase) for phase in PHASES)


def phase_bytes(parts: Iterable[Part], phase: str) -> float:
    return sum(getattr(part, phase) for part in parts)


def host_bytes(parts: Iterable[Part], d: Devices) -> float:
    """Main memory of one node that its ranks take beside what any process takes."""
    return d.per_node * sum(part.host for part in parts)


def cache_tokens(size: ModelSize, s: PlanSettings, d: Devices) -> int:
    """Tokens that vLLM's cache holds beside its weights and `WORKSPACE`, over `tensor_parallel` ranks together."""
    if d.kind == "cpu":
        return int(s.cpu_kv_cache_gib * GIB / size.cache_bytes(s.width))
    left = s.gpu_memory_utilization * d.memory - s.width * size.parameters / s.tensor_parallel - WORKSPACE
    return int(left * s.tensor_parallel / size.cache_bytes(s.width))


def check(size: ModelSize, s: PlanSettings, d: Devices) -> None:
    """Raise UserError, in one line, for settings that no amount of memory would make right."""
    n, tp = d.ranks, s.tensor_parallel
    if s.zero_stage == 0 and (n > 1 or s.offload != "none"):
        why = f"{n} ranks" if n > 1 else f'policy.offload = "{s.offload}"'
        raise UserError(f'policy.backend = "torch" is for one rank without offload, not for {why}; valid: "deepspeed"')
    if s.offload == "all" and s.zero_stage != 3:
        raise UserError(
            f'policy.offload = "all" needs policy.zero_stage = 3, not {s.zero_stage}; with {s.zero_stage}: "optimizer"'
        )
    if s.prompts % n:
        lower = max(k for k in range(1, s.prompts + 1) if s.prompts % k == 0 and k <= n)
        more = (s.prompts // n + 1) * n
        raise UserError(
            f"sampling.prompts_per_step = {s.prompts} cannot be shared equally by {n} ranks; valid: {more} prompts, "
            f"or {lower} ranks"
        )
    if s.rollout == "vllm" and tp not in (valid := splits(size, d.per_node)):
        raise UserError(
            f"rollout.tensor_parallel = {tp} must divide {d.per_node} ranks of a node, {size.heads} heads and "
            f"{size.kv_heads} kv heads; valid: {', '.join(map(str, valid))}"
        )


def splits(size: ModelSize, ranks: int) -> list[int]:
    """Numbers of ranks that vLLM can split this model over, of so many."""
    return [n for n in range(1, ranks + 1) if not (ranks % n or size.heads % n or size.kv_heads % n)]


def _always(name: str, how: str, bytes_: float) -> Part:
    return Part(name=name, how=how, sync=bytes_, rollout=bytes_, backward=bytes_, step=bytes_)


def _place(name: str, how: str, bytes_: float, offloaded: bool) -> Part:
    """In main memory where it is offloaded, else on the device; always."""
    return Part(name=name, how=how, host=bytes_) if offloaded else _always(name, how, bytes_)


def _single_states(size: ModelSize, s: PlanSettings, d: Devices) -> list[Part]:
    """One process: weights, gradients and two moments in float32, 16 P; the reference another 4 P.

    In bfloat16 autocast keeps a copy of every layer's matrices for the backward pass, 2 bytes each. torch's AdamW
    takes one tensor at a time on a CPU (two of the largest tensor), all at once on a GPU (4 P).
    """
    p, copies = 4 * size.parameters, 2 * size.trunk_parameters * (s.dtype == "bfloat16")
    work, how = (8 * size.head_parameters, "two of the largest tensor") if d.kind == "cpu" else (p, "4 P")
    parts = [
        _always("weights", "4 P", p),
        Part(name="gradients", how="4 P", backward=p, step=p),
        _always("optimizer", "8 P", 2 * p),
        Part(name="optimizer's work", how=how, step=work),
    ]
    parts += [Part(name="autocast", how="2 P of the layers", backward=copies)] * bool(copies)
    return parts + [_always("reference", "4 P", p)] * s.reference


def _zero_states(size: ModelSize, s: PlanSettings, d: Devices) -> list[Part]:
    """ZeRO (arXiv 1910.02054, section 5), as DeepSpeed 0.19 allocates it with float32 sums of gradients.

    Stage 1 shards 12 P of optimizer (float32 master weights and two moments). Stage 2 shards the gradients too, and
    stage 3 the weights, of which `LIVE` numbers are gathered at once. Offload moves optimizer and gradients to main
    memory, and "all" the weights. The gradients are there twice, as sum and as what Adam reads, and below stage 3 the
    new weights, c P / N.
    """
    p, n, c = size.parameters, d.ranks, s.width
    offloaded = s.offload != "none"
    if s.zero_stage < 3:
        weights = _always("weights", f"{c} P", c * p)
    else:
        gathered = c * min(p, LIVE)
        how = f"{c} P / N + {gathered / GB:.1f} GB gathered"
        weights = _place("weights", how, c * p / n, s.offload == "all")
        weights = replace(weights, backward=weights.backward + gathered)
    back = c * (offloaded and s.zero_stage < 3)
    parts = [
        weights,
        _zero_gradients(p, s, d),
        _place("optimizer", f"{12 + back} P / N", (12 + back) * p / n, offloaded),
        Part(name="buckets", how="two of 50M float32", backward=8 * BUCKET, step=8 * BUCKET),
    ]
    if s.reference and s.zero_stage < 3 and not offloaded:
        parts += [_always("reference", f"{c} P", c * p)]
    elif s.reference:
        parts += [_place("reference", f"{c} P / N", c * p / n, offloaded)]
    return parts


def _zero_gradients(p: int, s: PlanSettings, d: Devices) -> Part:
    """Sums of gradients in float32. Stage 1 keeps all of them, beside those that the backward pass writes."""
    n, written = d.ranks, s.width * p if s.dtype == "bfloat16" else 0
    if s.offload != "none" and s.zero_stage > 1:
        return Part(name="gradients", how="8 P / N", host=8 * p / n)
    if s.zero_stage == 1:  # in bfloat16 the buffer of the sums is there from the start
        how, held = ("(4 + 2) P", 4 * p) if written else ("4 P", 0)
        host = 8 * p / n * (s.offload != "none")
        return Part(name="gradients", how=how, sync=held, rollout=held, backward=4 * p + written, step=4 * p, host=host)
    share = 4 * p / n
    if s.zero_stage == 2:  # in float32 the sums are joined into a new tensor for the step
        return Part(name="gradients", how="4 P / N", backward=share, step=share * (1 if written else 2))
    joined = 4 * min(p / n, SUB_GROUP)
    return Part(name="gradients", how="4 P / N", sync=share, rollout=share, backward=share, step=share + joined)


def _activations(size: ModelSize, s: PlanSettings, d: Devices) -> Part:
    """What the layers keep for the backward pass, T tokens at a time. A rule of thumb, from reading the model's code.

    One layer keeps, per token: for each norm its float32 input and result and what the next product reads, 2 (8 + c)
    D; queries, keys and values as the attention sees them, its output twice, 5 c A; gate, up and two products, 4 c I.
    Norms of queries and keys add (8 + c)(A + K). With gradient checkpointing only each layer's input stays, s D, and
    one layer at a time is computed again. The backward pass through the widest part holds 3 c I more. The residual
    stream takes s = 4 bytes a number under autocast and in float32, 2 in a bfloat16 model. In the shared layout on GPUs
    every completion has a copy of its prompt's keys and values, 2 c K a token of both (grpo/model/attention.py).
    """
    t, c = s.tokens, s.width
    stream = c if s.zero_stage else 4
    layer = 2 * (8 + c) * size.hidden + 5 * c * size.attention + 4 * c * size.intermediate
    layer += (8 + c) * (size.attention + size.key_values) * size.qk_norm
    if s.shared and d.kind == "gpu":  # so many copied tokens for every token of a group of full length
        copied = s.group_size * s.context / (s.context + (s.group_size - 1) * s.max_tokens)
        layer += round(2 * c * size.key_values * copied)
    if s.gradient_checkpointing:
        kept, how = size.layers * stream * size.hidden + layer, f"T ({stream} D x layers + one layer)"
    else:
        kept, how = size.layers * layer, "T x layers"
    backward = t * (kept + 3 * c * size.intermediate)
    return Part(name="activations", how=f"{how}, T = {t:,}", backward=backward, counted=False)


def _head(size: ModelSize, s: PlanSettings) -> Part:
    """From the last hidden states to log-probabilities (grpo/model/lm_head.py), float32 whatever the model's dtype.

    Three chunks of logits, the gradient of the head's matrix, 4 V D, and 16 D per token for the last norm and the
    hidden states. Of a bfloat16 model also the matrix in float32 and its gradient in bfloat16, 6 V D; under stage 3 the
    gathered matrix, c V D.
    """
    matrix, c = size.head_parameters, s.width
    converted = 6 * matrix * (s.zero_stage > 0 and c == 2)
    gathered = c * matrix * (s.zero_stage == 3)
    bytes_ = 3 * CHUNK + 4 * matrix + converted + gathered + 16 * size.hidden * s.tokens
    how = "3 chunks + " + ("10 V D" if converted else "4 V D") + f" + {c} V D gathered" * bool(gathered)
    return Part(name="head and logits", how=how, backward=bytes_)


def _rollout(size: ModelSize, s: PlanSettings, d: Devices) -> list[Part]:
    """The rollout engine and what handing weights over to it takes.

    vLLM on GPUs: its weights while they come, its share while it samples, nothing else asleep (level 2). On a CPU it
    keeps both, always. hf: another float32 model, always, and the cache of the completions decoded at once. A server:
    nothing here. On the way are two of the largest tensor, V D.
    """
    p, c = size.parameters, s.width
    sync = Part(name="on the way", how=f"2 x {c} V D", sync=2 * c * size.head_parameters)
    if s.rollout == "server":
        return [sync]
    if s.rollout == "vllm" and d.kind == "gpu":
        weights, share = c * p / s.tensor_parallel, s.gpu_memory_utilization
        how = f"{share:g} of {d.memory / GB:.0f} GB: {weights / GB:.1f} weights, {WORKSPACE / GB:g} work, rest cache"
        return [Part(name="vLLM", how=how, sync=weights, rollout=share * d.memory), sync]
    if s.rollout == "vllm":
        gib = s.cpu_kv_cache_gib
        return [_always("vLLM", f"{c} P + {gib:g} GiB", c * p + gib * GIB), sync]
    groups = max(1, s.max_num_seqs // s.group_size)
    tokens = groups * (s.context - s.max_tokens + s.group_size * s.max_tokens)
    cache = Part(name="hf cache", how=f"{tokens:,} tokens at most", rollout=tokens * size.cache_bytes(4))
    return [_always("hf engine", "4 P", 4 * p), cache]
