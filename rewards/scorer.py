"""The rewards of a recipe put together: Ground-GRPO's Algorithm 1, the extra parts, and the user's own on top.

    R = R_tag_count
    if R_format = 1 and R_tag_count = 1:
        R += R_format
        if answerable and rscore <= 0.85:   R += R_refusal + R_EM + R_citation
        if unanswerable:                    R += R_refusal

R_refusal is part of stage 2 only; the gates are those of both stages. A part that a gate closed is worth 0. The extra
parts have the same gate of form; the user's own rewards pass no gate.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpo.data.example import Example
from grpo.errors import UserError
from grpo.types import Completion, Group, Score
from rewards.answer import Answer, parse
from rewards.citations import citation_rewards
from rewards.config import EXTRA, PARTS, RewardSettings
from rewards.consistency import process_rewards
from rewards.correctness import brevity, credited, exact_match, said
from rewards.custom import Guarded, Values
from rewards.factuality import Verdict, caution, fact, verdicts
from rewards.format import format_reward, tag_count
from rewards.judges.base import Verifier, make_verifier
from rewards.judges.batching import ask_together
from rewards.overlap import fuzzy_rewards, token_f1_rewards
from rewards.refusal import is_plain, refusal_reward

__all__ = ["PARTS", "GroupScorer", "RewardSettings", "compose", "extra_parts", "ground_parts"]

OF_WORDING: Mapping[str, Callable[[Example, Sequence[Answer]], list[float]]] = {
    "token_f1": token_f1_rewards,
    "fuzzy": fuzzy_rewards,
}
OF_VERDICTS: Mapping[str, Callable[[Sequence[Verdict]], list[float]]] = {"fact": fact, "caution": caution}
assert (*OF_WORDING, *OF_VERDICTS) == EXTRA


def compose(
    settings: RewardSettings,
    *,
    reasoning: bool,
    verifier: Verifier | None = None,
    own: tuple[Guarded, ...] | None = None,
) -> "GroupScorer":
    """The scorer of a recipe. `reasoning` is the model's format: <think> and <answer> tags, or plain text without any.

    `verifier` and `own` are what the settings name, where it is already there: a judge, and what `load_own` returned.
    UserError where the settings and the format contradict each other, or a reward of the user's own cannot be had.
    """
    settings.check_format(reasoning=reasoning)
    if own is None:  # first: what the user got wrong should not be found after a model was loaded
        own = load_own(settings)
    return GroupScorer(
        settings=settings, reasoning=reasoning, verifier=verifier or make_verifier(settings.judge), own=own
    )


def load_own(settings: RewardSettings) -> tuple[Guarded, ...]:
    """The rewards of the user's own that the settings name; UserError for one that cannot be had."""
    form = {"timeout": settings.timeout, "limit": settings.failure_limit, "conversational": settings.trl_conversational}
    own = tuple(Guarded(name, **form) for name in settings.weights if ":" in name)
    if settings.trl_conversational and not any(guard.for_trl for guard in own):
        raise UserError(
            "reward.trl_conversational = true, and no function in reward.weights is written for TRL; "
            "valid: false, or name one as 'package.module:function'"
        )
    return own


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScorer:
    """Total = sum over parts of weight * part, for the completions of a group; `step` is a grpo.types.Scorer.

    `Score.parts` holds the parts before their weights, so that they mean the same in every recipe. Where a reward of
    the user's own has not scored a completion (None), the part is missing from its `parts`, and its total counts the
    mean of its scored siblings instead: left out, it would count as 0, which is worth more than a penalty and less than
    a bonus. Where no sibling was scored, the part is in no total.
    """

    settings: RewardSettings
    reasoning: bool
    verifier: Verifier
    own: tuple[Guarded, ...]

    def __call__(self, example: Example, completions: Sequence[Completion]) -> list[Score]:
        """The scores of a group, in order. UserError once a reward of the user's own has failed too often."""
        return self.step([Group(example=example, prompt_ids=(), completions=tuple(completions))])[0]

    def step(self, groups: Sequence[Group]) -> list[list[Score]]:
        """The scores of a step's groups: a grpo.types.Scorer. The judge is asked about all of them at once.

        Beside it the rewards of the user's own are called, group after group. UserError as above.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="own") as beside:
            own = beside.submit(lambda: [self._own(group) for group in groups])
            rows = ask_together([partial(self._rows, group) for group in groups], self.verifier)
            return [self._scores(*one) for one in zip(rows, own.result(), strict=True)]

    def _own(self, group: Group) -> dict[Guarded, Values]:
        calls = [(guard, guard.start(group.example, group.completions)) for guard in self.own]
        return {guard: guard.finish(call) for guard, call in calls}

    def _rows(self, group: Group, verifier: Verifier) -> list[dict[str, float]]:
        """Our own parts, by name and before their weights."""
        example, reasoning = group.example, self.reasoning
        answers = [
            parse(c.text, style=example.style, reasoning=reasoning, finished=c.finish == "stop")
            for c in group.completions
        ]
        rows = ground_parts(example, answers, self.settings, verifier, reasoning=reasoning)
        extra = extra_parts(example, answers, self.settings, verifier)
        return [row | more for row, more in zip(rows, extra, strict=True)]

    def _scores(self, rows: list[dict[str, float]], own: Mapping[Guarded, Values]) -> list[Score]:
        weights = self.settings.weights
        totals = [sum(weights.get(name, 1.0) * value for name, value in row.items()) for row in rows]
        for guard, values in own.items():
            for n, (value, counted) in enumerate(zip(values, filled(values), strict=True)):
                totals[n] += weights[guard.path] * counted
                if value is not None:
                    rows[n][guard.path] = value
        return [Score(total=total, parts=row) for total, row in zip(totals, rows, strict=True)]

    def take_counts(self) -> dict[str, float]:
        """Failed calls of the user's own rewards since this was last asked, as metrics; asking sets them to 0."""
        return {f"reward_failures/{guard.path}": float(guard.take_failures()) for guard in self.own}

    def state_dict(self) -> dict[str, Any]:
        """The counters of the user's own rewards, by name."""
        return {guard.path: guard.state_dict() for guard in self.own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for guard in self.own:
            guard.load_state_dict(state[guard.path])


def filled(values: Values) -> list[float]:
    """The values with the mean of the others in place of None; zeros where all are None.

    >>> filled([1.0, None, 0.0]), filled([None, None])
    ([1.0, 0.5, 0.0], [0.0, 0.0])
    """
    scored = [value for value in values if value is not None]
    mean = sum(scored) / len(scored) if scored else 0.0
    return [mean if value is None else value for value in values]


def ground_parts(
    example: Example, answers: Sequence[Answer], settings: RewardSettings, verifier: Verifier, *, reasoning: bool
) -> list[dict[str, float]]:
    """Algorithm 1 for the answers of one group, every part by its name and before its weight."""
    # eqs 1 and 2 to the letter: nothing of ours in the sums
    anti_gaming = settings.anti_gaming and not settings.uncapped_sum
    answered = [a.statements if a.well_formed and example.answerable and not a.refused else () for a in answers]
    sayings = said(example, answered, verifier, anti_gaming=anti_gaming)
    correct = [
        [statements[i] for i in credited(row, uncapped_sum=settings.uncapped_sum)]
        for statements, row in zip(answered, sayings, strict=True)
    ]
    shares = [1.0] * len(answers)
    if anti_gaming:
        counts = [(len(right), len(frozenset().union(*row))) for right, row in zip(correct, sayings, strict=True)]
        shares = [brevity(*count, statements) for count, statements in zip(counts, answered, strict=True)]
    citation = citation_rewards(
        example, correct, verifier, penalty=settings.citation_penalty, anti_gaming=anti_gaming, shares=shares
    )
    rows = []
    for answer, right, cited, share in zip(answers, correct, citation, shares, strict=True):
        parts = {
            "tag_count": tag_count(answer, reasoning=reasoning),
            "format": format_reward(answer),
            "exact_match": exact_match(len(right)) * share,
            "citation": cited,
        }
        if settings.refusal:
            hedged = settings.anti_gaming and not is_plain(answer.answer_text)
            refusal = refusal_reward(answer.refusal_score, answerable=example.answerable, hedged=hedged)
            parts["refusal"] = refusal if answer.well_formed else 0.0
        rows.append(parts)
    return rows


def extra_parts(
    example: Example, answers: Sequence[Answer], settings: RewardSettings, verifier: Verifier
) -> list[dict[str, float]]:
    """The parts beyond Algorithm 1 that the settings switch on or name, for the answers of one group."""
    named = settings.weights.keys()
    columns = {name: reward(example, answers) for name, reward in OF_WORDING.items() if name in named}
    if OF_VERDICTS.keys() & named:
        group = verdicts(example, answers, verifier)
        columns |= {name: reward(group) for name, reward in OF_VERDICTS.items() if name in named}
    if settings.consistency:
        columns["consistency"] = process_rewards(answers, verifier)
    return [{name: values[n] for name, values in columns.items()} for n in range(len(answers))]
