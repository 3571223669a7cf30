"""What can a recipe say about rewards? The [reward] section, and the names of the parts that it can weigh."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from grpo.errors import UserError

ALWAYS = ("tag_count", "format", "exact_match", "citation")
"""Parts of every recipe: Ground-GRPO's stage 1."""

SWITCHED = ("refusal", "consistency")
"""Parts that a switch of the same name adds."""

EXTRA = ("token_f1", "fuzzy", "fact", "caution")
"""Parts that are computed where `weights` names them, and only there."""

PARTS = (*ALWAYS, *SWITCHED, *EXTRA)


class RewardSettings(BaseModel):
    """What answers are paid for. The defaults are stage 1; `refusal = true` makes it stage 2.

    `uncapped_sum = true` is eqs 1 and 2 to the letter: `anti_gaming` then only halves the pay of hedged refusals.
    The whole paper to the letter is `uncapped_sum = true, anti_gaming = false`; its worked cases are the same then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    refusal: bool = Field(default=False, description="stage 2: pay for refusing what the passages do not answer (eq 6)")
    consistency: bool = Field(
        default=False, description="pay for thinking that entails the answer (eq 7); reasoning only"
    )
    judge: str = Field(default="lexical", description="who judges whether passages support a statement")
    citation_penalty: FiniteFloat = Field(default=0.5, ge=0, description="cost of a bad citation; 0 is the ablation")
    uncapped_sum: bool = Field(default=False, description="the paper's unbounded sums of eqs 1 and 2, to the letter")
    anti_gaming: bool = Field(
        default=True,
        description="pay less for needless citations, padding, hedged refusals, chance matches; false: the paper",
    )
    weights: Mapping[str, FiniteFloat] = Field(
        default_factory=dict,
        description="weights of parts, 1 if not named, 0 to only watch; naming token_f1, fuzzy, fact or caution adds "
        "it; 'package.module:function' adds your own",
    )
    trl_conversational: bool = Field(
        default=False, description="give functions written for TRL lists of messages in place of plain strings"
    )
    timeout: FiniteFloat = Field(default=30.0, gt=0, description="seconds that a call of a reward of your own may take")
    failure_limit: FiniteFloat = Field(
        default=0.1, ge=0, le=1, description="share of a reward's calls that may fail; above it the run stops"
    )

    @model_validator(mode="after")
    def _weights_name_parts(self) -> "RewardSettings":
        off = [name for name in SWITCHED if not getattr(self, name)]
        valid = [name for name in PARTS if name not in off]
        for name in self.weights:
            if ":" not in name and name not in valid:
                hint = f" (it needs {name} = true)" if name in off else ""
                listed = f"{', '.join(valid)}, or 'package.module:function'"
                raise ValueError(f"weights: no part {name!r}{hint}; valid: {listed}")
        return self

    def check_format(self, *, reasoning: bool) -> None:
        """UserError where a part is paid that the model's format cannot have."""
        if self.consistency and not reasoning:
            raise UserError(
                "reward.consistency = true pays for thinking, and model.reasoning = false has none; "
                "valid: model.reasoning = true, or reward.consistency = false"
            )
