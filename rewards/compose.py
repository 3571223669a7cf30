"""The rewards of a recipe put together: Ground-GRPO's Algorithm 1, and the user's own rewards on top.

    R = R_tag_count
    if R_format = 1 and R_tag_count = 1:
        R += R_format
        if answerable and rscore <= 0.85:   R += R_refusal + R_EM + R_citation
        if unanswerable:                    R += R_refusal

R_refusal is part of stage 2 only; the gates are those of both stages. A part that a gate closed is worth 0.
"""

import importlib
import math
from collections.abc import Mapping, Sequence
from numbers import Real

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from grpo.types import Completion, Example, InputError, Reward, Score, Scorer
from rewards.citations import citation_rewards
from rewards.correctness import credited, exact_match, said
from rewards.entailment import Verifier, make_verifier
from rewards.format import format_reward, tag_count
from rewards.parse import Answer, parse
from rewards.refusal import refusal_reward

PARTS = ("tag_count", "format", "exact_match", "citation", "refusal")


class RewardSettings(BaseModel):
    """What answers are paid for. The defaults are the paper's stage 1; `refusal = true` makes it stage 2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    refusal: bool = Field(default=False, description="stage 2: pay for refusing what the passages do not answer (eq 6)")
    verifier: str = Field(default="lexical", description="who judges whether passages support a statement")
    citation_penalty: FiniteFloat = Field(default=0.5, ge=0, description="cost of a bad citation; 0 is the ablation")
    paper_sum: bool = Field(default=False, description="pay a gold answer at every repeat, as the paper's sum does")
    weights: Mapping[str, FiniteFloat] = Field(
        default_factory=dict,
        description="weights of parts, 1 if not named, 0 to only watch; 'package.module:function' adds your own",
    )

    @model_validator(mode="after")
    def _weights_name_parts(self) -> "RewardSettings":
        parts = PARTS if self.refusal else PARTS[:-1]
        for name in self.weights:
            if ":" not in name and name not in parts:
                hint = " (it needs refusal = true)" if name in PARTS else ""
                valid = f"{', '.join(parts)}, or 'package.module:function'"
                raise ValueError(f"weights: no part {name!r}{hint}; valid: {valid}")
        return self


def compose(settings: RewardSettings, *, reasoning: bool, verifier: Verifier | None = None) -> Scorer:
    """The scorer of a recipe: Algorithm 1 plus the user's rewards, total = sum over parts of weight * part.

    `reasoning` is the model's format: <think> and <answer> tags, or plain text without any.

    `Score.parts` holds the parts before their weights, so that they mean the same in every recipe. The user's rewards
    pass no gate, and one that was not scored (None) is in neither the parts nor the total. `verifier` overrides the
    settings' name with an object that is already there.
    """
    judge = verifier or make_verifier(settings.verifier)
    own = {name: load_reward(name) for name in settings.weights if ":" in name}

    def score(example: Example, completions: Sequence[Completion]) -> list[Score]:
        answers = [
            parse(c.text, style=example.style, reasoning=reasoning, finished=c.finish == "stop") for c in completions
        ]
        rows = ground_parts(example, answers, settings, judge, reasoning=reasoning)
        for name, reward in own.items():
            for row, value in zip(rows, _checked(name, reward(example, completions), len(rows)), strict=True):
                if value is not None:
                    row[name] = value
        return [
            Score(total=sum(settings.weights.get(name, 1.0) * value for name, value in row.items()), parts=row)
            for row in rows
        ]

    return score


def ground_parts(
    example: Example, answers: Sequence[Answer], settings: RewardSettings, verifier: Verifier, *, reasoning: bool
) -> list[dict[str, float]]:
    """Algorithm 1 for the answers of one group, every part by its name and before its weight."""
    answered = [a.statements if a.well_formed and example.answerable and not a.refused else () for a in answers]
    correct = [
        [statements[i] for i in credited(row, paper_sum=settings.paper_sum)]
        for statements, row in zip(answered, said(example, answered, verifier), strict=True)
    ]
    citation = citation_rewards(example, correct, verifier, penalty=settings.citation_penalty)
    rows = []
    for answer, right, cited in zip(answers, correct, citation, strict=True):
        parts = {
            "tag_count": tag_count(answer, reasoning=reasoning),
            "format": format_reward(answer),
            "exact_match": exact_match(len(right)),
            "citation": cited,
        }
        if settings.refusal:
            refusal = refusal_reward(answer.refusal_score, answerable=example.answerable)
            parts["refusal"] = refusal if answer.well_formed else 0.0
        rows.append(parts)
    return rows


def load_reward(path: str) -> Reward:
    """The user's callable at "package.module:function"; one that cannot be had is refused with the reason."""
    module, _, name = path.partition(":")
    try:
        reward: Reward = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise InputError(f"reward {path!r} cannot be loaded: {error}") from error
    if not callable(reward):
        raise InputError(f"reward {path!r} is a {type(reward).__name__}, not a function")
    return reward


def _checked(name: str, values: Sequence[float | None], count: int) -> list[float | None]:
    """A user reward's values: one finite number, or None for "not scored", per completion."""
    where = f"reward {name!r} returned"
    if not hasattr(values, "__len__"):  # a forgotten `return` gives None
        raise InputError(f"{where} a {type(values).__name__}; valid: a list of {count} numbers or None")
    if len(values) != count:
        raise InputError(f"{where} {len(values)} values for {count} completions")
    for number, value in enumerate(values):
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise InputError(f"{where} {value!r} for completion {number}; valid: a finite number or None")
    return [None if value is None else float(value) for value in values]
