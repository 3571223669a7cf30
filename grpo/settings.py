"""Recipe sections whose code imports torch: a command that prints help or refuses a recipe must not wait for torch.

The other sections of this package live beside their code: `SamplingConfig` in `grpo/types.py`, `AdamWConfig` in
`grpo/policy/optimizer.py`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from grpo.config import Section

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Aggregation = Literal["token", "sequence", "constant"]
Estimator = Literal["k1", "k2", "k3"]


class LossConfig(Section):
    """The loss (grpo/losses.py) and the advantage (grpo/advantages.py)."""

    type: Literal["grpo", "gspo", "cispo", "sapo"] = Field(default="grpo", description="policy loss")
    aggregation: Aggregation = Field(
        default="sequence", description="weight of a token: DAPO's, GRPO's or Dr. GRPO's average"
    )
    advantage: Literal["std", "mean", "leave_one_out", "per_reward"] = Field(
        default="std", description="baseline and scale of a group; per_reward is GDPO"
    )
    clip_low: float = Field(
        default=0.2, gt=0, lt=1, description="the ratio is clipped to [1 - clip_low, 1 + clip_high]"
    )
    clip_high: float = Field(default=0.2, gt=0, description="upper clip; DAPO has 0.28")
    dual_clip: float = Field(
        default=0.0,
        ge=0,
        description="bound of the ratio where the advantage is negative, above 1 + clip_high; 0: none",
    )
    cispo_clip: float = Field(
        default=5.0, gt=0, description="bound of CISPO's detached ratio, as in TRL; verl writes 1 + it"
    )
    sapo_temperatures: Annotated[tuple[Positive, Positive], Field(strict=False)] = Field(
        default=(1.0, 1.05), description="SAPO's, for advantages above 0 and for the others"
    )
    kl_coef: float = Field(default=0.0, ge=0, description="weight of the KL term (beta); 0 keeps no reference model")
    kl_estimator: Estimator = Field(default="k3", description="estimator of the KL term")
    importance_cap: float = Field(
        default=2.0, ge=0, description="cap of the importance weight of trainer against sampler (TIS); 0: no correction"
    )
    updates_per_step: int = Field(default=1, ge=1, description="optimizer steps for the groups of one rollout")
    max_logprob_gap: Positive | Literal["auto"] = Field(
        default="auto",
        description="nats per token by which sampler and trainer may differ on average; auto: 0.05 in bfloat16, 0.005 "
        "in float32",
    )

    @model_validator(mode="after")
    def _dual_clip_is_above_the_upper_clip(self) -> Self:
        if 0 < self.dual_clip <= 1 + self.clip_high:
            raise ValueError(
                f"loss.dual_clip = {self.dual_clip} would also cap what clip_high = {self.clip_high} allows; "
                f"valid: 0 (off) or above {1 + self.clip_high}"
            )
        return self


class PolicyConfig(Section):
    """How the update is computed (grpo/policy/)."""

    backend: Literal["auto", "torch", "deepspeed"] = Field(
        default="auto", description="auto: torch for one rank without offload, else deepspeed"
    )
    zero_stage: Literal[1, 2, 3] = Field(
        default=2, description="DeepSpeed shards the optimizer's state (1), the gradients too (2), the weights too (3)"
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none", description="what DeepSpeed keeps in main memory; all needs zero_stage = 3"
    )
    layout: Literal["auto", "shared", "padded"] = Field(
        default="auto",
        description="a prompt once per group (shared) or per row; auto: shared where the model allows it",
    )
    token_budget: int = Field(default=8192, ge=1, description="model tokens in a micro-batch")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of trainer and vLLM; auto: bfloat16 autocast where this machine is fast at it"
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations in the backward pass")

    @model_validator(mode="after")
    def _offloaded_weights_are_sharded(self) -> Self:
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError(
                f'policy.offload = "all" takes the weights too, which policy.zero_stage = {self.zero_stage} does not '
                'shard; valid: policy.zero_stage = 3, or policy.offload = "optimizer"'
            )
        return self


class RolloutConfig(Section):
    """The engine that samples completions (grpo/rollout/)."""

    engine: Literal["auto", "hf", "vllm", "server"] = Field(
        default="auto", description="auto: vllm where it is installed and fits, else hf"
    )
    max_num_seqs: int = Field(default=64, ge=1, description="completions decoded at once")
    gpu_memory_utilization: float = Field(
        default=0.45, gt=0, lt=1, description="vLLM's share of each GPU, weights and cache, while it samples"
    )
    cpu_kv_cache_gib: Positive = Field(default=2.0, description="GiB of vLLM's cache on a CPU")
    tensor_parallel: int = Field(default=1, ge=1, description="ranks that share one vLLM; 1: each rank has its own")
    host: str = Field(
        default="127.0.0.1", description="of the server; any but loopback needs GROUND_GRPO_TOKEN in both environments"
    )
    port: int = Field(default=8011, ge=1024, le=65535, description="of the server that `python launch/serve.py` starts")
    timeout: Positive = Field(default=600.0, description="seconds to wait for the server")

    @model_validator(mode="after")
    def _hf_is_one_process(self) -> Self:
        if self.engine == "hf" and self.tensor_parallel > 1:
            raise ValueError(
                f"rollout.tensor_parallel = {self.tensor_parallel} is for vLLM, and rollout.engine is 'hf'; "
                "valid: 1, or rollout.engine = 'vllm'"
            )
        return self


class CheckpointConfig(Section):
    """Checkpoints, from which a run that ended early resumes (docs/reliability.md)."""

    every: int = Field(default=5, ge=0, description="steps between checkpoints; 0: only when the run is asked to end")
    keep: int = Field(
        default=2, ge=1, description="the newest that stay; a second one replaces a first that the disk damaged"
    )
    background: bool = Field(
        default=True, description="write beside the next steps, from a copy in main memory of 12 bytes per parameter"
    )
    resume: Literal["auto", "never"] = Field(
        default="auto", description="auto: a run folder with a checkpoint is resumed"
    )
    hang_timeout: float = Field(
        default=3600.0, ge=0, description="seconds beyond its report after which a phase ends the run; 0: never"
    )
    max_nonfinite_updates: int = Field(
        default=3, ge=1, description="updates in a row with non-finite numbers, after which the run ends"
    )
