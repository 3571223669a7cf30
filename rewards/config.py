"""The [reward] section of a recipe, the names of the parts it can weigh, and the presets of the two papers."""

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from grpo.config import Section
from grpo.data.text import REFUSALS
from grpo.errors import UserError

ALWAYS = ("tag_count", "format", "exact_match", "citation")  # parts of every recipe: Ground-GRPO stage 1
SWITCHED = ("refusal", "consistency")  # parts that the field of the same name adds
EXTRA = ("token_f1", "fuzzy", "fact", "caution")  # parts that are computed only where `weights` names them
PARTS = (*ALWAYS, *SWITCHED, *EXTRA)
RENAMED = {  # keys of recipes before December 2026, and what they are called now
    "reward.process": "reward.consistency",
    "reward.verifier": "reward.judge",
    "reward.paper_sum": "reward.uncapped_sum",
    "reward.hardened": "reward.anti_gaming",
}


class RewardConfig(Section):
    """Settings of the rewards. The defaults are Ground-GRPO stage 1; `refusal = true` makes them stage 2.

    `uncapped_sum = true` is eqs 1 and 2 as printed; of the `anti_gaming` rules only the half reward of a hedged refusal
    then remains. The whole paper as printed is `uncapped_sum = true, anti_gaming = false`.
    """

    refusal: bool = Field(default=False, description="stage 2: reward refusing where no passage has the answer (eq 6)")
    consistency: bool = Field(
        default=False, description="reward thinking that entails the answer (eq 7); reasoning models only"
    )
    judge: str = Field(default="lexical", description="judge of whether passages support a statement")
    citation_penalty: FiniteFloat = Field(default=0.5, ge=0, description="cost of a bad citation; 0 is the ablation")
    uncapped_sum: bool = Field(default=False, description="sum eqs 1 and 2 over all statements, as the paper prints")
    anti_gaming: bool = Field(
        default=True,
        description="pay less for needless citations, padding, hedged refusals, chance matches; false: the paper",
    )
    weights: Mapping[str, FiniteFloat] = Field(
        default_factory=dict,
        description="weights of parts, default 1, 0 to only log; naming token_f1, fuzzy, fact or caution adds it; "
        "'package.module:function' adds a reward function of yours",
    )
    trl_conversational: bool = Field(
        default=False, description="give functions written for TRL lists of messages instead of strings"
    )
    timeout: FiniteFloat = Field(
        default=30.0, gt=0, description="seconds that one call of your reward function may take"
    )
    failure_limit: FiniteFloat = Field(
        default=0.1, ge=0, le=1, description="share of calls of your reward function that may fail before the run stops"
    )

    @property
    def anti_gaming_sums(self) -> bool:
        """Whether the anti-gaming rules apply within eqs 1 and 2."""
        return self.anti_gaming and not self.uncapped_sum

    @model_validator(mode="after")
    def _weights_name_parts(self) -> Self:
        off = [name for name in SWITCHED if not getattr(self, name)]
        valid = [name for name in PARTS if name not in off]
        for name in self.weights:
            if ":" not in name and name not in valid:
                hint = f" (it needs {name} = true)" if name in off else ""
                listed = f"{', '.join(valid)}, or 'package.module:function'"
                raise ValueError(f"weights: no part {name!r}{hint}; valid: {listed}")
        return self

    def check_format(self, *, reasoning: bool) -> None:
        """UserError if a part is rewarded that the model's output format cannot have."""
        if self.consistency and not reasoning:
            raise UserError(
                "reward.consistency = true rewards thinking, and model.reasoning = false has none; "
                "valid: model.reasoning = true, or reward.consistency = false"
            )


class AnswerForm(BaseModel, extra="ignore"):
    """The keys of [model] that say what an answer looks like."""

    reasoning: bool = False
    refusals: list[str] = [*REFUSALS]


class RewardRecipe(BaseModel, extra="ignore"):
    """The part of a recipe that rewards need; other sections and keys are ignored."""

    renamed: ClassVar[dict[str, str]] = RENAMED
    reward: RewardConfig = Field(default_factory=RewardConfig)
    model: AnswerForm = Field(default_factory=AnswerForm)


def _factuality(*parts: str) -> RewardConfig:
    """Only these parts and the format are rewarded: closed-book questions have no passages to cite."""
    return RewardConfig(weights={"exact_match": 0.0, "citation": 0.0, **dict.fromkeys(parts, 1.0)})


PRESETS: Mapping[str, RewardConfig] = {
    "stage1": RewardConfig(),
    "stage2": RewardConfig(refusal=True),
    "no_citation_penalty": RewardConfig(refusal=True, citation_penalty=0.0),  # Figure 6
    "consistency": RewardConfig(refusal=True, consistency=True),  # Figure 5, which does not give its weight
    "paper": RewardConfig(refusal=True, uncapped_sum=True, anti_gaming=False),  # stage 2 as printed
    "fact": _factuality("fact"),
    "caution": _factuality("caution"),
    "fact_and_caution": _factuality("fact", "caution"),
}
"""The stages and ablations of the papers, for the audit, the docs and the tests. Recipes write their settings out."""
