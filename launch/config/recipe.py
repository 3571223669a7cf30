"""A run's recipe: all of its sections. `load_recipe(argv)` fills it from files and overrides.

A section that belongs to one module is that module's own settings class. What only a combination of sections forbids
is refused here, before anything heavy is imported.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from curriculum.samplers import CurriculumConfig
from curriculum.stage_end import StageEndConfig
from grpo.config import Section, load
from grpo.data.example import Style
from grpo.data.text import REFUSALS
from grpo.policy.optimizer import AdamWConfig
from grpo.settings import CheckpointConfig, LossConfig, PolicyConfig, RolloutConfig
from grpo.types import SamplingConfig
from rewards.config import RENAMED, RewardConfig
from rewards.refusal import check_refusals

MAX_NAME = 100  # bytes: a folder's name may have 255, and ours add to this


def _folder_name(value: str) -> str:
    if value in (".", "..") or "/" in value or not value.isprintable() or len(value.encode()) > MAX_NAME:
        raise ValueError(f"valid: the name of one folder, without /, of at most {MAX_NAME} bytes")
    return value


TRUST_SCORE = tuple(f"trust_score/{name}_eval" for name in ("asqa", "qampari", "eli5", "expertqa"))
"""The paper's four evaluation sets: a configuration and its splits on the hub."""

TRUST_DATA = "hub:declare-lab/Trust-Data"


def _sources(value: Any) -> Any:
    """Return a source, or a tuple of sources, with ~ expanded. "trust-score[:COPY]" stands for four of them."""
    names = [value] if isinstance(value, str) else value
    if isinstance(value, str) and value.partition(":")[0] == "trust-score":
        copy = value.partition(":")[2]
        names = [f"{f'hub:{os.path.expanduser(copy)}' if copy else TRUST_DATA}:{split}" for split in TRUST_SCORE]
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError('valid: "world", a file, "hub:NAME[:SPLIT]", or a list of these: ["a.jsonl", "hub:x/y"]')
    return os.path.expanduser(names[0]) if len(names) == 1 else tuple(map(os.path.expanduser, names))


def _fields(value: Any) -> Any:
    """Return our names of fields with the file's, of {"question": "input"} or of "question=input answer=output"."""
    pairs = [part.partition("=") for part in value.split()] if isinstance(value, str) else []
    if isinstance(value, str) and not all(ours and theirs for ours, _, theirs in pairs):
        raise ValueError('valid: "question=FIELD passages=FIELD answer=FIELD", or { question = "FIELD" }')
    return {ours: theirs for ours, _, theirs in pairs} if isinstance(value, str) else value


FolderName = Annotated[str, AfterValidator(_folder_name)]
PathText = Annotated[str, AfterValidator(os.path.expanduser)]
Sources = Annotated[str | tuple[str, ...], BeforeValidator(_sources)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
Fields = Annotated[dict[str, str], BeforeValidator(_fields)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RunConfig(Section):
    """Where a run goes and how long it lasts."""

    algorithm: Literal["grpo", "sft"] = Field(default="grpo", description="what is run")
    stage: FolderName = Field(default="stage1", description="a label: names the run, and where a later stage starts")
    name: FolderName = Field(default="", description="folder of the run below `folder`; default: <stage>-<model.label>")
    folder: PathText = Field(default="runs", description="folder of all runs")
    seed: int = Field(default=0, description="of sampling and of the order of questions")
    steps: int = Field(
        default=0, ge=0, description="optimizer rollouts; 0: as many as `epochs` over the questions need"
    )
    epochs: int = Field(default=4, ge=1, description="passes over the questions (paper 3.1)")
    rollouts_every: int = Field(default=1, ge=1, description="steps between transcripts in rollouts.jsonl")
    plan: Literal["refuse", "warn", "off"] = Field(
        default="warn", description="what happens to a run that by the estimate does not fit in memory"
    )
    max_lost_targets: Share = Field(
        default=0.1,
        description="share of gold answers that may lose reward to encoding, template, tags or length before a run "
        "refuses to start",
    )
    project: str = Field(
        default="ground-grpo", description="wandb project, used where WANDB_API_KEY or WANDB_MODE is set"
    )


class ModelConfig(Section):
    """Which model, and the form of its answers."""

    name: PathText = Field(
        default="embedded:smollm2-135m", description="a model folder, a hub name, embedded:smollm2-135m or random:tiny"
    )
    label: FolderName = Field(default="smollm2-135m", description="short name for folders")
    init_from: PathText = Field(
        default="base", description="base, a stage such as stage1 (its run with this model), or a model or run folder"
    )
    reasoning: bool = Field(default=False, description="<think>..</think><answer>..</answer>; false: plain text")
    refusals: list[str] = Field(
        default=[*REFUSALS],
        description="the refusal sentence, which the prompt asks for and the warm-up teaches; then others that count",
    )
    context: int = Field(default=2048, ge=1, description="tokens of prompt and completion together")
    prompt: PathText = Field(
        default="",
        description="system prompt: a .txt file, or the name of one in configs/prompts; default: reasoning or plain",
    )
    config: dict[str, Any] = Field(default={}, description="values of config.json, for plans without that file")

    @model_validator(mode="after")
    def _refusals_have_words(self) -> Self:
        check_refusals(self.refusals)
        return self

    @property
    def system_prompt(self) -> str:
        """The argument of `grpo.data.prompts.load_system_prompt`: a file, or the name of one of ours."""
        return self.prompt or ("reasoning" if self.reasoning else "plain")


TRANSFORMS = ("distractors", "without_support", "shuffle")
"""Fields of [data] that change the examples of any source (curriculum/transforms.py)."""


class DataConfig(Section):
    """Which questions."""

    source: Sources = Field(
        default="world",
        description="world, a file (.json, .jsonl, .csv, .tsv, .gz, .parquet) or folder, hub:NAME[:CONFIG/SPLIT], "
        "or a list of these; trust-score: the paper's evaluation sets",
    )
    format: str = Field(default="", description="of the records (docs/data-and-rewards.md); default: by their fields")
    style: Literal["", "prose", "list", "claims"] = Field(
        default="", description="of the answers of records that state none; default: as the format or the answer is"
    )
    fields: Fields = Field(
        default={}, description="our names of fields and the file's, such as question=user_input passages=docs.found"
    )
    refusals: Texts = Field(default=(), description="further wordings by which a log's answers refuse")
    gold: Texts = Field(
        default=(), description="sources with the accepted answers to questions of chats and prompts, which have none"
    )
    label_with: str = Field(
        default="lexical", description="judge that finds sentences in passages, where records have no labels"
    )
    max_train: int = Field(default=300, ge=1, description="questions to train on, after the split")
    unanswerable: Share | Literal["any"] = Field(
        default=0.0, description="share of them that the passages do not answer; any: as many as the sources have"
    )
    unrelated: Share = Field(
        default=0.0, description="share of the world's unanswerable questions whose passages do not mention the subject"
    )
    mixture: dict[str, Weight] = Field(
        default={}, description="weights by source, such as { asqa = 2, eli5 = 1 }; default: evenly"
    )
    styles: dict[Style, Annotated[float, Field(ge=0)]] = Field(
        default={"prose": 0.6, "list": 0.2, "claims": 0.2}, description="weights of the world's styles of questions"
    )
    distractors: int = Field(default=0, ge=0, description="further passages per question, from other questions")
    without_support: bool = Field(default=False, description="each question also without the passages that answer it")
    shuffle: bool = Field(default=False, description="show the passages in another order than the source's")
    passages: int = Field(
        default=0,
        ge=0,
        description="passages per question at most; 0: as many as a record has, and 3 where we choose them",
    )
    max_words: int = Field(default=0, ge=0, description="words of a passage of question-answer files; 0: all")
    held_out: float = Field(
        default=0.2, ge=0, lt=1, description="share of all questions held out, by a hash of their ids"
    )
    seed: int = Field(
        default=0, description="of the world and of the choice of passages; another seed is another data set"
    )

    @property
    def is_trust_score(self) -> bool:
        """Whether the source is the paper's four evaluation sets."""
        return tuple(name.rpartition(":")[2] for name in self.source) == TRUST_SCORE


class SFTConfig(Section):
    """Supervised steps on reference answers before GRPO, for models that cannot cite yet."""

    steps: int = Field(default=0, ge=0, description="0: no supervised steps")
    examples_per_step: int = Field(default=4, ge=1, description="over all ranks")
    lr: float = Field(default=5e-5, gt=0, allow_inf_nan=False, description="peak learning rate, with linear decay")
    unanswerable: float = Field(
        default=0.25,
        ge=0,
        le=0.5,
        description="share of refusals: answered questions over the passages of another question",
    )
    seed: int = Field(default=0, description="of the choice of questions")


class HeldOutConfig(Section):
    """The held-out table before and after training, and during it."""

    questions: int = Field(default=100, ge=0, description="0: no table")
    unanswerable: Share | Literal["any"] = Field(default=0.0, description="as data.unanswerable")
    every: int = Field(default=0, ge=0, description="steps between measurements; 0: before and after only")
    best_by: Literal[
        "auto",
        "trust_score",
        "f1_gr",
        "f1_ac",
        "f1_gc",
        "grounded",
        "right",
        "citation_recall",
        "citation_precision",
        "",
    ] = Field(
        default="auto",
        description="the model with the most of it is kept, where `every` measures; "
        "auto: trust_score, or right for closed-book questions; empty: none",
    )
    judge: str = Field(
        default="lexical",
        description="judge of entailment in the scores: lexical, token_subset or an NLI model",
    )


class EvalConfig(Section):
    """What `launch/evaluate.py` asks and how the model answers; defaults as in the field (trust-align)."""

    split: Literal["held_out", "all"] = Field(
        default="held_out", description="what training leaves out, or the whole data"
    )
    questions: int = Field(
        default=0, ge=0, description="a random sample of so many, with the data's share of unanswerable ones; 0: all"
    )
    temperature: float = Field(default=0.5, ge=0, description="0: greedy")
    top_p: float = Field(default=0.95, gt=0, le=1, description="probability mass that is sampled from")
    max_tokens: int = Field(
        default=0, ge=0, description="of an answer; 0: 300, the field's limit, or 1024 for reasoning models"
    )
    seed: int = Field(default=42, description="of the answers and of the choice of demonstrations")
    shots: Annotated[int, Field(ge=0, le=10)] | Literal["auto"] = Field(
        default="auto", description="demonstrations before each question; auto: 2 for a base model, 0 for a checkpoint"
    )
    shots_from: PathText = Field(
        default="", description="data to take them from, as data.source; default: what is not asked of the same data"
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, lt=1, description="vLLM's share of each GPU, which it has to itself"
    )
    judge: str = Field(default="lexical", description="judge of citations, as eval.score --nli")
    reference: bool = Field(default=False, description="score with every quirk of the field's evaluator")


class Recipe(Section):
    """One run: training or evaluation."""

    renamed: ClassVar[dict[str, str]] = {  # keys of recipes before December 2026, and what they are called now
        "model.start": "model.init_from",
        "model.shape": "model.config, with the keys of config.json",
        "data.questions": "data.max_train",
        **RENAMED,
        "loss.policy": "loss.type",
        "loss.average": "loss.aggregation",
        "loss.cispo_bound": "loss.cispo_clip",
        "loss.kl": "loss.kl_coef",
        "loss.sampler_cap": "loss.importance_cap",
        "loss.mismatch_limit": "loss.max_logprob_gap",
        "optim.warmup": "optim.warmup_ratio",
        "policy.engine": "policy.backend",
        "policy.stage": "policy.zero_stage",
        "rollout.rows": "rollout.max_num_seqs",
        "rollout.memory": "rollout.gpu_memory_utilization",
        "rollout.kv_cache": "rollout.cpu_kv_cache_gib",
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

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig = RewardConfig()
    loss: LossConfig = LossConfig()
    optim: AdamWConfig = AdamWConfig()
    policy: PolicyConfig = PolicyConfig()
    rollout: RolloutConfig = RolloutConfig()
    sft: SFTConfig = SFTConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    stage_end: StageEndConfig = StageEndConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    held_out: HeldOutConfig = HeldOutConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        self.reward.check_format(reasoning=self.model.reasoning)
        if self.sampling.max_tokens >= self.model.context:
            raise ValueError(
                f"sampling.max_tokens = {self.sampling.max_tokens} leaves no room for a prompt in "
                f"model.context = {self.model.context}; at most {self.model.context - 1}"
            )
        if self.loss.updates_per_step > self.sampling.prompts_per_step:
            raise ValueError(
                f"loss.updates_per_step = {self.loss.updates_per_step} parts cannot be made of "
                f"sampling.prompts_per_step = {self.sampling.prompts_per_step} groups; at most that many"
            )
        if self.loss.advantage == "per_reward" and self.sampling.dynamic != "off":
            raise ValueError(
                f'sampling.dynamic = "{self.sampling.dynamic}" leaves out groups whose totals are alike, and by '
                'loss.advantage = "per_reward" their parts can teach; valid: sampling.dynamic = "off"'
            )
        return self

    def check_evaluation(self) -> None:
        """Raise ValueError for what an evaluation cannot do."""
        if self.eval_max_tokens >= self.model.context:
            raise ValueError(
                f"eval.max_tokens = {self.eval_max_tokens} leaves no room for a prompt in model.context = "
                f"{self.model.context}; at most {self.model.context - 1}"
            )
        if self.eval.split == "all" and self.shots and not self.eval.shots_from:
            raise ValueError(
                'eval.split = "all" asks every question and leaves none for demonstrations; valid: eval.shots = 0, or '
                "eval.shots_from = other data"
            )

    @property
    def run_name(self) -> str:
        return self.run.name or f"{self.run.stage}-{self.model.label}"

    @property
    def fixed_rollout(self) -> RolloutConfig:
        """The [rollout] section for a model that is not trained, to which vLLM has the GPUs for itself."""
        return self.rollout.replace(gpu_memory_utilization=self.eval.gpu_memory_utilization)

    @property
    def eval_max_tokens(self) -> int:
        return self.eval.max_tokens or (1024 if self.model.reasoning else 300)

    @property
    def shots(self) -> int:
        """Demonstrations of an evaluation. A trained model knows the task; the field shows it to others by two."""
        if self.eval.shots == "auto":
            return 2 if self.model.init_from == "base" else 0
        return self.eval.shots

    @property
    def data_with_refusals(self) -> DataConfig:
        """`data`, whose logs may also refuse in the model's own words."""
        return self.data.replace(refusals=(*self.data.refusals, *self.model.refusals))

    def steps(self, questions: int) -> int:
        """Return the number of rollouts of the run: as given, or `epochs` over this many questions, at least one."""
        return self.run.steps or max(1, self.run.epochs * questions // self.sampling.prompts_per_step)


def load_recipe(arguments: Sequence[str], *, check: Callable[[Recipe], object] | None = None) -> Recipe:
    """Return the recipe of these files and overrides, as `grpo.config.load` does.

    A model may have a recipe of its own for a stage: behind configs/stage2.toml, configs/models/M/stage2.toml takes the
    place of configs/models/M.toml where it exists.
    """
    files = [argument for argument in arguments if argument.endswith(".toml") and not argument.startswith("--")]
    own = {file: str(Path(file).with_suffix("") / Path(files[0]).name) for file in files[1:]}
    there = {file: path for file, path in own.items() if Path(path).expanduser().is_file()}
    return load(Recipe, [there.get(argument, argument) for argument in arguments], check=check)
