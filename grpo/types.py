"""The records of the algorithm, in the order in which data flows: Example -> Group -> Batch -> Stats.

No torch, so that an import costs nothing. Records are frozen: the next stage makes the next record. `Batch`, the only
record made of tensors, lives in `grpo/batch.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import Field

from grpo.config import Section
from grpo.data.example import Example

TokenIds = tuple[int, ...]


class Sampling(Section):
    """The settings of a request to the sampler: `Sampling(group_size=8, max_tokens=64)`; temperature 0 is greedy."""

    group_size: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)


class SamplingConfig(Sampling):
    """The questions and completions of a training step."""

    prompts_per_step: int = Field(default=48, ge=1, description="questions of a step, over all ranks")
    group_size: int = Field(default=8, ge=2, description="completions per question (paper 3.1)")
    max_tokens: int = Field(default=512, ge=1, description="tokens of a completion, thinking included")
    temperature: float = Field(default=1.0, gt=0, description="the trainer divides its logits by it too")
    top_p: float = Field(default=1.0, gt=0, le=1, description="probability mass that is sampled from")
    dynamic: Literal["off", "drop", "refill"] = Field(
        default="off", description="zero-variance groups: kept, left out, or replaced by further questions (DAPO)"
    )
    refill_cap: int = Field(
        default=3, ge=2, description="refill asks at most this multiple of prompts_per_step in a step"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A model's answer to a prompt, stop token included.

    `Completion(text="109 [1].", token_ids=(940, 41, 2), logprobs=(-0.1, -0.3, -0.0), finish="stop", version=7)`
    """

    text: str  # decoded once from token_ids, special tokens dropped; never tokenized again
    token_ids: TokenIds
    logprobs: tuple[float, ...]  # nats, of the sampling distribution, one per token
    finish: Literal["stop", "length"]
    version: int  # of the weights that wrote it

    def __post_init__(self) -> None:
        if len(self.logprobs) != len(self.token_ids):
            raise ValueError(f"{len(self.logprobs)} logprobs for {len(self.token_ids)} tokens")

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Completion":
        """Return the completion with these fields, as JSON holds them."""
        fields: dict[str, Any] = {**plain, "token_ids": tuple(plain["token_ids"]), "logprobs": tuple(plain["logprobs"])}
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The reward of a completion: `Score(total=3.0, parts={"exact_match": 0.5, "citation": 0.5, "format": 2.0})`."""

    total: float
    parts: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])  # why: {"statements": [...]}, for rollouts.jsonl


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One prompt and its completions; `scores` is empty until the completions are scored."""

    example: Example
    prompt_ids: TokenIds
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...] = ()


PromptRenderer = Callable[[Example], TokenIds]
Reward = Callable[[Example, Sequence[Completion]], Sequence[float | None]]  # one group at a time; None is "not scored"
Scorer = Callable[[Sequence[Group]], Sequence[Sequence[Score]]]  # all groups of a step, so that a judge is asked once


class Curriculum(Protocol):
    """The source of a run's questions."""

    def next_batch(self, count: int) -> list[Example]:
        """The next questions, the same on every rank."""
        ...

    def observe(self, groups: list[Group]) -> None:
        """Learn from the scored groups of a step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The whole state, as JSON can hold it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
