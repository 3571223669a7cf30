"""How much memory does a rank need, part by part and phase by phase? Estimates, before anything is loaded.

Pure functions of the model's shape, the settings and the devices. P is the number of parameters, N the number of ranks,
c the bytes of a number in the policy's dtype (2 for bfloat16, 4 for float32), GB is 1e9 bytes. Four phases are told
apart, since what they need does not coincide: `push` (new weights go to the rollout engine), `rollout` (it writes),
`backward` (all forward and backward passes), `step` (the optimizer). A plan fits where the largest phase takes at most
`ROOM` of the memory.

What is counted from tensors that the code allocates is exact; `activations`, `WORKSPACE` and `RUNTIME` are rules of
thumb, and nothing here was measured on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from grpo.errors import UserError
from launch.config.model_size import Shape

Offload = Literal["none", "optimizer", "all"]
OFFLOADS: tuple[Offload, ...] = ("none", "optimizer", "all")
PHASES = ("push", "rollout", "backward", "step")

GB, GIB = 1e9, 2**30
ROOM = 0.95  # rule of thumb: the rest is for what the allocator cannot join together
RUNTIME = {"gpu": 3 * GB, "cpu": 0.6 * GB}  # rule of thumb: CUDA, NCCL, captured graphs; python with torch
WORKSPACE = 4 * GB  # rule of thumb: what vLLM needs beside weights and cache at its default of 16,384 prefilled tokens
BUCKET = 50_000_000  # numbers that ZeRO reduces at once (grpo/policy/zero_config.py); two float32 buckets are held
LIVE = 1_000_000_000  # DeepSpeed's default: at most so many gathered numbers at once under stage 3
SUB_GROUP = 1_000_000_000  # DeepSpeed's default: so many numbers are stepped at once under stage 3
CHUNK = 64 * 2**20  # bytes of a chunk of logits (grpo/model/lm_head.py, CHUNK_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What the ranks run on: `Devices(kind="gpu", per_node=8, nodes=1, memory=80e9)` is 8 ranks."""

    kind: Literal["gpu", "cpu"]
    per_node: int  # ranks of a node: its GPUs, or the processes on its CPU
    nodes: int
    memory: float  # bytes of each rank
    host: float | None = None  # bytes of a node's main memory; None: not known, so not compared
    fast_bf16: bool = True  # what dtype "auto" comes to: bfloat16 where it is fast

    @property
    def ranks(self) -> int:
        return self.per_node * self.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What of a recipe decides how much memory is needed."""

    stage: Literal[0, 1, 2, 3]  # of ZeRO; 0 is the engine of one process (grpo/policy/torch_backend.py)
    offload: Offload
    dtype: Literal["float32", "bfloat16"]
    gradient_checkpointing: bool
    shared: bool  # the layout: a prompt once per group
    token_budget: int  # model tokens of a micro-batch
    context: int  # tokens of prompt and completion
    max_tokens: int  # of a completion
    prompts: int  # of a step, on all ranks together
    group_size: int
    reference: bool  # kl > 0
    rollout: Literal["hf", "vllm", "server"]
    rows: int  # completions that the hf engine decodes at once
    share: float  # of a GPU's memory, vLLM's while it is awake
    kv_cache: float  # GiB of vLLM's cache on a CPU
    tensor_parallel: int  # ranks that hold one copy of vLLM's weights

    @property
    def width(self) -> int:
        """c: bytes of a number where the model runs."""
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def tokens(self) -> int:
        """Of the largest micro-batch: one completion with its prompt runs even where the budget is smaller."""
        return max(self.token_budget, self.context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One part of the plan, in bytes of one rank; `host` is main memory that a GPU's rank takes, in every phase."""

    name: str
    how: str  # the formula, short
    push: float = 0.0
    rollout: float = 0.0
    backward: float = 0.0
    step: float = 0.0
    host: float = 0.0


def memory_plan(shape: Shape, s: PlanSettings, d: Devices) -> list[Line]:
    """Every part of what one rank needs; of several ranks the largest, where they differ."""
    states = _single_states(shape, s, d) if s.stage == 0 else _zero_states(shape, s, d)
    parts = [*states, activations(shape, s, d), head(shape, s), *_rollout(shape, s, d)]
    parts += [Line(name="checkpoint", how="12 P / N, from the first one on", host=12 * shape.parameters / d.ranks)]
    return [*parts, _always("runtime", "rule of thumb", RUNTIME[d.kind])]


def loading(shape: Shape, s: PlanSettings, d: Devices) -> tuple[float, float]:
    """Bytes while the model is loaded, and the reference with it: (of a rank, of a node's main memory beside GPUs).

    One process reads each in float32, 4 P, and stages 1 and 2 in the policy's dtype, c P, whole on every rank. Files
    are mapped, and what they hold in that dtype goes from there to a GPU; what has to be converted, as float32 from the
    bfloat16 that models are published in, is in main memory first, one model at a time. Stage 3 keeps of every tensor
    its share as soon as it is read, c P / N in the end, with one tensor whole at a time, and a copy of it; every rank
    maps the files, and rank 0 alone reads them.

    Not a phase of the plan: only a reference that is whole before it is offloaded can need more than training does.
    """
    copies = 1 + s.reference
    if s.stage == 3:
        kept = 0 if s.offload == "all" and d.kind == "gpu" else copies * s.width * shape.parameters / d.ranks
        return kept + 2 * s.width * shape.head_parameters, 0.0
    width = s.width if s.stage else 4
    converted = d.kind == "gpu" and width == 4
    return copies * width * shape.parameters, d.per_node * 4.0 * shape.parameters * converted


def peak(lines: Sequence[Line], d: Devices) -> float:
    """Bytes of the largest phase; where the device is the CPU itself, what is offloaded to it counts too."""
    host = sum(line.host for line in lines) if d.kind == "cpu" else 0.0
    return host + max(sum(getattr(line, phase) for line in lines) for phase in PHASES)


def host_bytes(lines: Sequence[Line], d: Devices) -> float:
    """Main memory of one node that its ranks take beside what any process takes."""
    return d.per_node * sum(line.host for line in lines)


def _always(name: str, how: str, size: float) -> Line:
    return Line(name=name, how=how, push=size, rollout=size, backward=size, step=size)


def _place(name: str, how: str, size: float, offloaded: bool) -> Line:
    """In main memory where it is offloaded, else on the device; always."""
    return Line(name=name, how=how, host=size) if offloaded else _always(name, how, size)


def _single_states(shape: Shape, s: PlanSettings, d: Devices) -> list[Line]:
    """The engine of one process: weights, gradients and two moments in float32, 16 P; the reference another 4 P.

    In bfloat16 autocast keeps a copy of every layer's matrices for the backward pass, 2 bytes each. torch's AdamW
    takes one tensor at a time on a CPU (two of the largest tensor), all at once on a GPU (4 P).
    """
    p, copies = 4 * shape.parameters, 2 * shape.layers * shape.layer_parameters * (s.dtype == "bfloat16")
    work, how = (8 * shape.head_parameters, "two of the largest tensor") if d.kind == "cpu" else (p, "4 P")
    lines = [
        _always("weights", "4 P", p),
        Line(name="gradients", how="4 P", backward=p, step=p),
        _always("optimizer", "8 P", 2 * p),
        Line(name="optimizer's work", how=how, step=work),
    ]
    lines += [Line(name="autocast", how="2 P of the layers", backward=copies)] * bool(copies)
    return lines + [_always("reference", "4 P", p)] * s.reference


def _zero_states(shape: Shape, s: PlanSettings, d: Devices) -> list[Line]:
    """ZeRO (arXiv 1910.02054, section 5), as DeepSpeed 0.19 allocates it with float32 sums of gradients.

    Stage 1 shards 12 P of optimizer (float32 master weights and two moments); stage 2 the gradients as well; stage 3
    the weights as well, of which `LIVE` numbers are gathered at once. Offload moves the optimizer and the gradients,
    and with "all" the weights, to main memory: the gradients twice, as sum and as what Adam reads, and below stage 3
    the new weights on their way back, c P / N.
    """
    p, n, c = shape.parameters, d.ranks, s.width
    offloaded = s.offload != "none"
    lines = [_zero_weights(p, s, d), _zero_gradients(p, s, d)]
    back = c * (offloaded and s.stage < 3)
    lines += [_place("optimizer", f"{12 + back} P / N", (12 + back) * p / n, offloaded)]
    lines += [Line(name="buckets", how="two of 50M float32", backward=8 * BUCKET, step=8 * BUCKET)]
    if s.reference and s.stage < 3 and not offloaded:
        lines += [_always("reference", f"{c} P", c * p)]
    elif s.reference:
        lines += [_place("reference", f"{c} P / N", c * p / n, offloaded)]
    return lines


def _zero_weights(p: int, s: PlanSettings, d: Devices) -> Line:
    """Whole below stage 3; there this rank's share, and in the passes what is gathered of the others'."""
    c = s.width
    if s.stage < 3:
        return _always("weights", f"{c} P", c * p)
    gathered, how = c * min(p, LIVE), f"{c} P / N + {c * min(p, LIVE) / GB:.1f} GB gathered"
    kept = _place("weights", how, c * p / d.ranks, s.offload == "all")
    return replace(kept, backward=kept.backward + gathered)


def _zero_gradients(p: int, s: PlanSettings, d: Devices) -> Line:
    """Sums of gradients in float32. Stage 1 keeps all of them, beside those that the backward pass writes."""
    n, written = d.ranks, s.width * p if s.dtype == "bfloat16" else 0
    if s.offload != "none" and s.stage > 1:
        return Line(name="gradients", how="8 P / N", host=8 * p / n)
    if s.stage == 1:  # in bfloat16 the buffer of the sums is there from the start
        how, held = ("(4 + 2) P", 4 * p) if written else ("4 P", 0)
        host = 8 * p / n * (s.offload != "none")
        return Line(name="gradients", how=how, push=held, rollout=held, backward=4 * p + written, step=4 * p, host=host)
    size = 4 * p / n
    if s.stage == 2:  # in float32 the sums are joined into a new tensor for the step
        return Line(name="gradients", how="4 P / N", backward=size, step=size * (1 if written else 2))
    joined = 4 * min(p / n, SUB_GROUP)
    return Line(name="gradients", how="4 P / N", push=size, rollout=size, backward=size, step=size + joined)


def activations(shape: Shape, s: PlanSettings, d: Devices) -> Line:
    """What the layers keep for the backward pass, T tokens at a time. A rule of thumb, from reading the model's code.

    One layer keeps, per token: for each norm its float32 input and result and what the next product reads, 2 (8 + c)
    D; queries, keys and values as the attention sees them, its output twice, 5 c A; gate, up and two products, 4 c I.
    Norms of queries and keys add (8 + c)(A + K). With gradient checkpointing only each layer's input stays, s D, and
    one layer at a time is computed again. The backward pass through the widest part holds 3 c I more. The residual
    stream takes s = 4 bytes a number under autocast and in float32, 2 in a bfloat16 model. In the shared layout on GPUs
    every completion has a copy of its prompt's keys and values, 2 c K a token of both (grpo/model/attention.py).
    """
    t, c = s.tokens, s.width
    stream = 4 if s.stage == 0 else c
    layer = 2 * (8 + c) * shape.hidden + 5 * c * shape.attention + 4 * c * shape.intermediate
    layer += (8 + c) * (shape.attention + shape.key_values) * shape.qk_norm
    if s.shared and d.kind == "gpu":  # so many copied tokens for every token of a group of full length
        copied = s.group_size * s.context / (s.context + (s.group_size - 1) * s.max_tokens)
        layer += round(2 * c * shape.key_values * copied)
    if s.gradient_checkpointing:
        kept, how = shape.layers * stream * shape.hidden + layer, f"T ({stream} D x layers + one layer)"
    else:
        kept, how = shape.layers * layer, "T x layers"
    size = t * (kept + 3 * c * shape.intermediate)
    return Line(name="activations", how=f"{how}, T = {t:,}", backward=size)


def head(shape: Shape, s: PlanSettings) -> Line:
    """From the last hidden states to log-probabilities (grpo/model/lm_head.py), float32 whatever the model's dtype.

    Three chunks of logits, the gradient of the head's matrix, 4 V D, and 16 D per token for the last norm and the
    hidden states. Of a bfloat16 model also the matrix in float32 and its gradient in bfloat16, 6 V D; under stage 3 the
    gathered matrix, c V D.
    """
    matrix, c = shape.head_parameters, s.width
    converted = 6 * matrix * (s.stage > 0 and c == 2)
    gathered = c * matrix * (s.stage == 3)
    size = 3 * CHUNK + 4 * matrix + converted + gathered + 16 * shape.hidden * s.tokens
    how = "3 chunks + " + ("10 V D" if converted else "4 V D") + f" + {c} V D gathered" * bool(gathered)
    return Line(name="head and logits", how=how, backward=size)


def _rollout(shape: Shape, s: PlanSettings, d: Devices) -> list[Line]:
    """The rollout engine and what handing weights over to it takes.

    vLLM on GPUs: its weights while they come, its share while it writes, nothing else asleep (level 2). On a CPU it
    keeps both, always. hf: another float32 model, always, and the cache of the completions decoded at once. A server:
    nothing here. What is on its way: two of the largest tensor, V D.
    """
    p, c = shape.parameters, s.width
    sync = Line(name="on the way", how=f"2 x {c} V D", push=2 * c * shape.head_parameters)
    if s.rollout == "server":
        return [sync]
    if s.rollout == "vllm" and d.kind == "gpu":
        weights = c * p / s.tensor_parallel
        how = f"{s.share:g} of {d.memory / GB:.0f} GB: {weights / GB:.1f} weights, {WORKSPACE / GB:g} work, rest cache"
        return [Line(name="vLLM", how=how, push=weights, rollout=s.share * d.memory), sync]
    if s.rollout == "vllm":
        return [_always("vLLM", f"{c} P + {s.kv_cache:g} GiB", c * p + s.kv_cache * GIB), sync]
    groups = max(1, s.rows // s.group_size)
    tokens = groups * (s.context - s.max_tokens + s.group_size * s.max_tokens)
    cache = Line(name="hf cache", how=f"{tokens:,} tokens at most", rollout=tokens * shape.cache_bytes(4))
    return [_always("hf engine", "4 P", 4 * p), cache]


def cache_tokens(shape: Shape, s: PlanSettings, d: Devices) -> int:
    """Tokens that vLLM's cache holds beside its weights and `WORKSPACE`, over `tensor_parallel` ranks together.

    On a CPU `kv_cache` is the cache alone. A token takes 2 x layers x kv_heads x head_dim numbers.
    """
    if d.kind == "cpu":
        return int(s.kv_cache * GIB / shape.cache_bytes(s.width))
    left = s.share * d.memory - s.width * shape.parameters / s.tensor_parallel - WORKSPACE
    return int(left * s.tensor_parallel / shape.cache_bytes(s.width))


def check(shape: Shape, s: PlanSettings, d: Devices) -> None:
    """UserError, one line, for settings that no amount of memory would make right."""
    n, tp = d.ranks, s.tensor_parallel
    if s.stage == 0 and (n > 1 or s.offload != "none"):
        why = f"{n} ranks" if n > 1 else f'policy.offload = "{s.offload}"'
        raise UserError(f'policy.backend = "torch" is for one rank without offload, not for {why}; valid: "zero"')
    if s.offload == "all" and s.stage != 3:
        raise UserError(
            f'policy.offload = "all" needs policy.zero_stage = 3, not {s.stage}; with {s.stage}: "optimizer"'
        )
    if s.prompts % n:
        lower = max(k for k in range(1, s.prompts + 1) if s.prompts % k == 0 and k <= n)
        more = (s.prompts // n + 1) * n
        raise UserError(
            f"sampling.prompts_per_step = {s.prompts} cannot be shared equally by {n} ranks; valid: {more} prompts, "
            f"or {lower} ranks"
        )
    if s.rollout == "vllm" and (d.per_node % tp or shape.heads % tp or shape.kv_heads % tp):
        valid = [k for k in range(1, d.per_node + 1) if not (d.per_node % k or shape.heads % k or shape.kv_heads % k)]
        raise UserError(
            f"rollout.tensor_parallel = {tp} must divide {d.per_node} ranks of a node, {shape.heads} heads and "
            f"{shape.kv_heads} kv heads; valid: {', '.join(map(str, valid))}"
        )
