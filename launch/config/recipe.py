"""Everything a run can be told, section by section; `grpo.config.load(Recipe, argv)` fills it from files and overrides.

Training reads a `Recipe`, evaluation an `EvaluationRecipe`; they differ in which combinations they refuse.

Sections that belong to one module are that module's own settings (loss, optimizer, rewards). What a combination of
values forbids is checked at the end, before anything heavy is imported.
"""

import difflib
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass as checked

from curriculum.samplers import OrderSettings
from curriculum.stage_end import GateSettings
from grpo.checkpointing.settings import Keeping
from grpo.data.example import Style
from launch.config.values import MEASURED, Limit, Name, Shots, Sources, StageShare, Steps, Unanswerable, in_stage
from rewards.config import RewardConfig

# What is done to the examples of any source (curriculum/transforms.py).
TRANSFORMS = ("distractors", "without_support", "shuffle")

# Keys of recipes before December 2026, and what they are called now.
RENAMED = {
    "model.start": "model.init_from",
    "model.shape": "model.config, with the keys of config.json",
    "data.questions": "data.max_train",
    "reward.process": "reward.consistency",
    "reward.verifier": "reward.judge",
    "reward.paper_sum": "reward.uncapped_sum",
    "reward.hardened": "reward.anti_gaming",
    "loss.policy": "loss.type",
    "loss.average": "loss.aggregation",
    "loss.cispo_bound": "loss.cispo_clip",
    "loss.kl": "loss.kl_coef",
    "loss.sampler_cap": "loss.importance_cap",
    "loss.max_logprob_gap": "loss.max_logprob_gap",
    "optim.warmup": "optim.warmup_ratio",
    "policy.engine": "policy.backend",
    "policy.stage": "policy.zero_stage",
    "rollout.rows": "rollout.max_num_seqs",
    "rollout.memory": "rollout.gpu_memory_utilization",
    "rollout.kv_cache": "rollout.cpu_kv_cache_gib",
    "rollout.transfer": "rollout.weight_transfer",
    "rollout.patience": "rollout.timeout",
    "warmup": "sft",
    "gate": "stage_end",
    "checkpoint.hang": "checkpoint.hang_timeout",
    "checkpoint.bad_updates": "checkpoint.max_nonfinite_updates",
    "eval.unanswerable": "held_out.unanswerable",
    "eval.every": "held_out.every",
    "eval.best_by": "held_out.best_by",
    "eval.nli": "eval.judge, and in training held_out.judge",
    "eval.part": "eval.split",
}

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where a run goes and how long it lasts."""

    algorithm: Literal["grpo", "sft"] = "grpo"
    stage: Name = "stage1"  # a label, such as "stage1": names the run, and the stage that a later one starts from
    name: Name = ""  # folder below `folder`; "" is <stage>-<model.label>
    folder: str = "runs"
    seed: int = 0  # of sampling and of the order of questions
    steps: Steps = 0  # or by stage: { default = 30, stage2 = 45 }; 0: as many as `epochs` over the questions need
    epochs: Positive = 4  # paper 3.1
    rollouts_every: Positive = 1  # steps between transcripts in rollouts.jsonl
    plan: Literal["refuse", "warn", "off"] = "warn"  # what becomes of a run that by the estimate does not fit in memory
    project: str = "ground-grpo"  # wandb project, used where WANDB_API_KEY or WANDB_MODE is set


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Which model, and how it is spoken to."""

    name: str = "embedded:smollm2-135m"  # a folder, a hub name, "embedded:smollm2-135m" or "random:tiny"
    label: Name = "smollm2-135m"  # for file names
    init_from: str = "base"  # "base", a stage such as "stage1" (its run with this model), or a model or run folder
    reasoning: bool = False  # <think>..</think><answer>..</answer>, or plain text for instruct models
    context: Positive = 2048  # tokens: prompt and completion together
    prompt: str = ""  # system prompt: a .txt file, or one of configs/prompts; "" is reasoning or plain
    config: dict[str, Any] = field(default_factory=dict)  # values of the model's config.json, for plans without it


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What is asked."""

    source: Sources = "world"  # "world", a .json, .jsonl, .csv or .tsv file (.gz too), "hub:NAME[:SPLIT]", or a list
    max_train: Positive = 300  # for training, after the split
    unanswerable: Unanswerable = 0.0  # share of them that the passages do not answer; "any": as the sources have it
    unrelated: StageShare = 0.0  # share of these, in the world, whose passages do not mention the subject; or by stage
    mixture: dict[str, Above0] = field(default_factory=dict)  # weights by source, { asqa = 2, eli5 = 1 }; {}: evenly
    styles: dict[Style, Annotated[float, Field(ge=0)]] = field(
        default_factory=lambda: {"prose": 0.6, "list": 0.2, "claims": 0.2}
    )  # of the world's questions, as weights
    distractors: Count = 0  # more passages for each question, from other questions (curriculum/transforms.py)
    without_support: bool = False  # also each question without the passages that answer it: a form to refuse
    shuffle: bool = False  # show the passages in another order than the source has
    passages: Positive = 3  # per question, where we build the examples (world, question-answer files)
    max_words: Count = 0  # cut passages of question-answer files to this many words; 0 keeps them whole
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2  # of all questions, by a hash of their ids
    seed: int = 0  # of the world and of the builder; another seed is another data set


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How many completions of what length."""

    prompts_per_step: Positive = 48
    group_size: Annotated[int, Field(ge=2)] = 8  # paper 3.1; a group of one has nobody to be compared with
    max_tokens: Positive = 512
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    dynamic: Literal["off", "drop", "refill"] = "off"  # what becomes of groups that scored all alike (grpo/collect.py)
    refill_cap: Annotated[int, Field(ge=2)] = 3  # refill asks at most so many times prompts_per_step a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The objective (grpo/losses.py) and the advantage (grpo/advantages.py)."""

    type: Literal["grpo", "gspo", "cispo", "sapo"] = "grpo"
    aggregation: Literal["token", "sequence", "constant"] = "sequence"
    advantage: Literal["std", "mean", "leave_one_out", "per_reward"] = "std"
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    dual_clip: Annotated[float, Field(ge=0)] = 0.0  # 0 is off; else above 1 + clip_high
    cispo_clip: Annotated[float, Field(gt=0)] = 5.0
    sapo_temperatures: tuple[Above0, Above0] = (1.0, 1.05)
    kl_coef: Annotated[float, Field(ge=0)] = 0.0  # 0 keeps no reference model
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    importance_cap: Annotated[float, Field(ge=0)] = 2.0  # of the importance weight against the sampler; 0 is off
    updates_per_step: Positive = 1
    max_logprob_gap: Limit = "auto"  # nats per token between sampler and trainer (launch/builders/precision.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """AdamW and its schedule (grpo/policy/optimizer.py)."""

    lr: Above0 = 1e-5  # paper 3.1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0  # a larger gradient is scaled down to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the update is computed."""

    backend: Literal["auto", "torch", "deepspeed"] = "auto"  # auto: torch for one rank without offload, else deepspeed
    zero_stage: Literal[1, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = "none"  # what of ZeRO waits in main memory; all needs stage 3
    layout: Literal["auto", "shared", "padded"] = "auto"  # auto: shared, and padded for a model that it cannot serve
    token_budget: Positive = 8192  # model tokens in a micro-batch
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 autocast where this machine is fast at it
    gradient_checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What writes the completions (grpo/rollout/)."""

    engine: Literal["auto", "hf", "vllm", "server"] = "auto"  # auto: vllm where it is installed and fits, else hf
    max_num_seqs: Positive = 64  # completions decoded at once
    # vLLM's share of each GPU, weights and cache, while it writes
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] = 0.45
    cpu_kv_cache_gib: Above0 = 2.0  # vLLM's cache on a CPU, where the share above says nothing
    tensor_parallel: Positive = 1  # ranks that share one vLLM; 1: each rank has its own
    host: str = "127.0.0.1"  # of "server": another than loopback wants GROUND_GRPO_TOKEN in both environments
    port: Annotated[int, Field(ge=1024, le=65535)] = 8011  # of "server", which `python launch/serve.py` starts
    weight_transfer: Literal["auto", "files", "broadcast"] = (
        "auto"  # of weights to it: files in memory, or NCCL or gloo
    )
    timeout: Above0 = 600.0  # seconds that "server" is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class SFT:
    """Supervised steps on gold answers before stage 1, for models that cannot cite at all yet; 0 steps is none."""

    steps: Count = 0
    examples_per_step: Positive = 4
    lr: Above0 = 5e-5
    # share of refusals, each to a question that is also answered, over the passages of another
    # (curriculum/refusal_pairs.py)
    unanswerable: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The held-out table before and after, and on the way."""

    questions: Count = 100  # 0: no table
    unanswerable: Unanswerable = 0.0  # as data.unanswerable
    every: Count = 0  # steps between measurements on the way; 0: before and after only
    best_by: str = "trust_score"  # the model with the most of it is kept, where `every` measures; "" for none
    judge: str = "lexical"  # who judges entailment in the scores: "lexical", or an NLI model's folder or hub name


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """An evaluation (launch/evaluate.py): what is asked and how it is answered; defaults as in the field (trust-align).

    `questions` of fewer than there are is a random sample with the data's own share of unanswerable ones.
    """

    split: Literal["held_out", "all"] = "held_out"  # of the data: what training leaves out, or a test file as a whole
    questions: Count = 0  # at most this many; 0: all
    temperature: Annotated[float, Field(ge=0)] = 0.5  # 0: greedy
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Count = 0  # of an answer; 0: 300, the field's limit, or 1024 for reasoning models, which think first
    seed: int = 42  # of the answers and of the choice of demonstrations
    shots: Shots = "auto"  # demonstrations before each question: 2 for a model as it comes, 0 for a checkpoint
    shots_from: str = ""  # data to take them from, as data.source; "": what is not asked of the same data
    judge: str = "lexical"  # the judge of citations, as eval.score --nli
    reference: bool = False  # score with every quirk of the field's evaluator, as eval.score --reference


@checked(frozen=True, slots=True, kw_only=True)
class Setup:
    """The sections that training and evaluation share."""

    renamed: ClassVar[dict[str, str]] = RENAMED

    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    reward: RewardConfig = field(default_factory=RewardConfig)
    loss: Loss = field(default_factory=Loss)
    optim: Optimizer = field(default_factory=Optimizer)
    policy: Policy = field(default_factory=Policy)
    rollout: Rollout = field(default_factory=Rollout)
    sft: SFT = field(default_factory=SFT)
    curriculum: OrderSettings = field(default_factory=OrderSettings)
    stage_end: GateSettings = field(default_factory=GateSettings)
    checkpoint: Keeping = field(default_factory=Keeping)
    held_out: HeldOut = field(default_factory=HeldOut)
    eval: Exam = field(default_factory=Exam)

    @property
    def prompt_file(self) -> str:
        """What `grpo.data.prompts.load_system_prompt` takes: a file, or the name of one of ours."""
        return self.model.prompt or ("reasoning" if self.model.reasoning else "plain")


@checked(frozen=True, slots=True, kw_only=True)
class Recipe(Setup):
    """One run."""

    @model_validator(mode="after")
    def _combinations(self) -> "Recipe":
        self.reward.check_format(reasoning=self.model.reasoning)
        if self.sampling.max_tokens >= self.model.context:
            raise ValueError(
                f"sampling.max_tokens = {self.sampling.max_tokens} leaves no room for a prompt in "
                f"model.context = {self.model.context}; at most {self.model.context - 1}"
            )
        if self.rollout.engine == "hf" and self.rollout.tensor_parallel > 1:
            raise ValueError(
                f"rollout.tensor_parallel = {self.rollout.tensor_parallel} is for vLLM, and rollout.engine is 'hf'; "
                "valid: 1, or rollout.engine = 'vllm'"
            )
        if 0 < self.loss.dual_clip <= 1 + self.loss.clip_high:
            raise ValueError(
                f"loss.dual_clip = {self.loss.dual_clip} would also cap what clip_high = {self.loss.clip_high} allows; "
                f"valid: 0 (off) or above {1 + self.loss.clip_high}"
            )
        if self.held_out.best_by not in ("", *MEASURED):
            near = difflib.get_close_matches(self.held_out.best_by, MEASURED, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"held_out.best_by = {self.held_out.best_by!r} is not measured; nearest: {near!r}; "
                f"valid: {', '.join(MEASURED)}, or '' to keep none"
            )
        if self.loss.updates_per_step > self.sampling.prompts_per_step:
            raise ValueError(
                f"loss.updates_per_step = {self.loss.updates_per_step} parts cannot be made of "
                f"sampling.prompts_per_step = {self.sampling.prompts_per_step} groups; at most that many"
            )
        return self

    @property
    def run_name(self) -> str:
        return self.run.name or f"{self.run.stage}-{self.model.label}"

    def steps(self, questions: int) -> int:
        """Optimizer rollouts of the run: given, or epochs over this many questions, at least one."""
        return in_stage(self.run.steps, self.run.stage) or max(
            1, self.run.epochs * questions // self.sampling.prompts_per_step
        )


@checked(frozen=True, slots=True, kw_only=True)
class EvaluationRecipe(Setup):
    """One evaluation. Sections that only training reads are taken, since a model's recipe has them, and left alone."""

    @model_validator(mode="after")
    def _combinations(self) -> "EvaluationRecipe":
        if self.max_tokens >= self.model.context:
            raise ValueError(
                f"eval.max_tokens = {self.max_tokens} leaves no room for a prompt in model.context = "
                f"{self.model.context}; at most {self.model.context - 1}"
            )
        if self.eval.split == "all" and self.shots and not self.eval.shots_from:
            raise ValueError(
                'eval.split = "all" asks every question and leaves none for demonstrations; valid: eval.shots = 0, or '
                "eval.shots_from = other data"
            )
        return self

    @property
    def max_tokens(self) -> int:
        return self.eval.max_tokens or (1024 if self.model.reasoning else 300)

    @property
    def shots(self) -> int:
        """Demonstrations before each question. A trained model knows the task; the field shows it to others by two."""
        if self.eval.shots == "auto":
            return 2 if self.model.init_from == "base" else 0
        return self.eval.shots


EVALUATION_READS = {  # what of it: an override of anything else would be ignored, and is refused
    "run": ("folder", "name", "stage"),
    "model": ("name", "label", "init_from", "reasoning", "context", "prompt"),
    "data": ("source", "max_train", "unrelated", "styles", "passages", "max_words", "held_out", "seed", *TRANSFORMS),
    "rollout": ("engine", "max_num_seqs", "gpu_memory_utilization", "cpu_kv_cache_gib"),
    "eval": tuple(entry.name for entry in fields(Exam)),
}
