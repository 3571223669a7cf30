"""The nouns, in the order in which data flows: Example -> Group -> Batch -> Stats.

Standard library only, so that every other module can import it for nothing. Records are frozen: the next stage makes
the next record instead of filling in this one. `Batch`, the one record made of tensors, lives in `grpo/batch.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grpo.errors import UserError

TokenIds = tuple[int, ...]
Style = Literal["prose", "list", "claims", "closed"]
STYLES: tuple[Style, ...] = ("prose", "list", "claims", "closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A source, `Passage(title="Ali Daei", text="Ali Daei scored 109 goals.")`; its number is its place, from 1."""

    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question with the passages it may be answered from.

    >>> daei = Passage(title="Ali Daei", text="Ali Daei scored 109 goals.")
    >>> Example(id="q1", question="How many goals did Daei score?", passages=(daei,), answers=(("109", "109 goals"),),
    ...         found=((True,),), style="prose", source="asqa").answerable
    True
    """

    id: str  # unique within its source: "asqa-17"
    question: str
    passages: tuple[Passage, ...]
    answers: tuple[
        tuple[str, ...], ...
    ]  # one tuple of accepted spellings per answer; several answers for lists and claims
    found: tuple[tuple[bool, ...], ...]  # found[p][a]: passage p holds answer a
    style: Style
    source: str  # data set of origin, for metrics by source: "asqa"

    def __post_init__(self) -> None:
        if len(self.found) != len(self.passages):
            raise UserError(f"example {self.id}: found has {len(self.found)} rows for {len(self.passages)} passages")
        for number, row in enumerate(self.found, 1):
            if len(row) != len(self.answers):
                raise UserError(
                    f"example {self.id}: found row {number} has {len(row)} flags for {len(self.answers)} answers"
                )

    @property
    def answerable(self) -> bool:
        """Whether any passage holds any answer (Trust-Align, section 3); a closed-book question with answers is."""
        if self.style == "closed":
            return bool(self.answers)
        return any(any(row) for row in self.found)

    @property
    def answerable_indices(self) -> tuple[int, ...]:
        """Indices, from 0, of the answers that some passage holds."""
        return tuple(a for a in range(len(self.answers)) if any(row[a] for row in self.found))

    def passages_with(self, answer: int) -> frozenset[int]:
        """Numbers, from 1, of the passages that hold answer `answer` (an index from 0)."""
        return frozenset(number for number, row in enumerate(self.found, 1) if row[answer])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn: `Sampling(group_size=8, max_tokens=64)`; temperature 0 is greedy."""

    group_size: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model wrote after a prompt, stop token included.

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
        """Its fields by name, as they come back from JSON."""
        fields: dict[str, Any] = {**plain, "token_ids": tuple(plain["token_ids"]), "logprobs": tuple(plain["logprobs"])}
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a completion is worth: `Score(total=3.0, parts={"exact_match": 0.5, "citation": 0.5, "format": 2.0})`."""

    total: float
    parts: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One prompt and the completions that compete over it; `scores` is empty until they are scored."""

    example: Example
    prompt_ids: TokenIds
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...] = ()


PromptRenderer = Callable[[Example], TokenIds]
Reward = Callable[[Example, Sequence[Completion]], Sequence[float | None]]  # one group at a time; None is "not scored"
Scorer = Callable[[Sequence[Group]], Sequence[Sequence[Score]]]  # all groups of a step, so that a judge is asked once
