"""The rewards of a recipe together: Ground-GRPO's Algorithm 1, the extra parts, and custom rewards.

    R = R_tag_count
    if R_format = 1 and R_tag_count = 1:
        R += R_format
        if answerable and refusal_score <= 0.85:   R += R_refusal + R_EM + R_citation
        if unanswerable:                           R += R_refusal

R_refusal belongs to stage 2 only; the conditions are those of both stages. A part whose condition fails is 0. The extra
parts need a well-formed answer too; custom rewards have no condition.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

from grpo.data.example import Example
from grpo.data.text import REFUSALS
from grpo.types import Group, Score
from rewards.answer import TAGS, ParsedAnswer, Statement, parse_completion
from rewards.citations import Citation, Credited, citation_pairs, citation_rewards, support
from rewards.config import RewardConfig
from rewards.consistency import consistency_pair, consistency_rewards
from rewards.correctness import (
    EXACT_MATCH,
    AnswerIndices,
    answers_stated,
    claim_pairs,
    fuzzy_containment,
    length_penalty,
    overlap_rewards,
    statement_credits,
    token_f1,
    words_allowed,
)
from rewards.custom import CustomReward, Scored, Values, load_custom_rewards
from rewards.factuality import caution, fact, outcome_pairs, outcomes
from rewards.judges.base import Judge, Pair, Verdicts, ask
from rewards.judges.load import load_judge
from rewards.refusal import is_pure_refusal, refusal_reward

OVERLAPS = {"token_f1": token_f1, "fuzzy": fuzzy_containment}
FACTUALITY = {"fact": fact, "caution": caution}
Parts = dict[str, float]  # the parts of one completion by name, before their weights


@dataclass(frozen=True, slots=True)
class ParsedGroup:
    """The answers to one question."""

    example: Example
    answers: list[ParsedAnswer]
    refusals: Sequence[str]
    rewardable: list[tuple[Statement, ...]]  # of each answer, what R_EM may reward: see rewardable_statements


@dataclass(frozen=True, slots=True)
class Credits:
    """What the answers of one question earn R_EM and R_citation for; the lists have one entry per answer."""

    stated: list[list[AnswerIndices]]  # of each rewardable statement
    shares: list[list[float]]  # of eq 1 that each rewardable statement earns
    statements: list[list[Credited]]  # those that earn something
    factors: list[float]  # on their rewards, see rewards.correctness.length_penalty
    citations: dict[Citation, Pair]  # to judge, of all answers


class RewardScorer:
    """Scores groups: total = sum over parts of weight * part. A `grpo.types.Scorer`.

    `reasoning` is the model's format: <think> and <answer> tags, or plain text without any. `refusals` are the
    sentences that count as refusals, first the one that the prompt asks for. `judge` and `custom` are what `config`
    names, if already loaded. `tell` gets a warning of a custom reward without values. UserError if the config does not
    fit the format, or names what cannot be loaded.

    `Score.parts` holds the parts before their weights, so that they mean the same in every recipe. If a custom reward
    has not scored a completion (None), its part is missing there, and the total uses the mean of the scored completions
    of the group. Without that, the part would count as 0, which is more than a penalty and less than a bonus.
    """

    def __init__(
        self,
        config: RewardConfig,
        *,
        reasoning: bool,
        refusals: Sequence[str] = REFUSALS,
        judge: Judge | None = None,
        custom: Sequence[CustomReward] | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        config.check_format(reasoning=reasoning)
        self.config, self.reasoning, self.refusals = config, reasoning, tuple(refusals)
        self.custom = load_custom_rewards(config) if custom is None else custom  # first: a judge takes longer to load
        self.judge = judge or load_judge(config.judge)
        self._tell, self._is_first = tell, True

    def __call__(self, groups: Sequence[Group]) -> list[list[Score]]:
        """The scores of each group, in order. UserError once a custom reward has failed too often.

        The judge is asked at most twice for all groups together. Custom rewards run meanwhile, group after group.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="custom") as pool:
            custom = pool.submit(lambda: [self._custom_values(group) for group in groups])
            parts = self._parts([self._parse(group) for group in groups])
            scored = custom.result()
            self._tell_of_unscored(scored)
            return [self._scores(*each) for each in zip(parts, scored, strict=True)]

    def pop_metrics(self) -> dict[str, float]:
        """Failed calls of the custom rewards since the last call, and what these logged, as metrics."""
        failures = {f"reward_failures/{reward.path}": float(reward.pop_failures()) for reward in self.custom}
        return failures | {f"reward_log/{n}": v for reward in self.custom for n, v in reward.pop_metrics().items()}

    def state_dict(self) -> dict[str, Any]:
        """The failure counts of the custom rewards, by name."""
        return {reward.path: reward.state_dict() for reward in self.custom}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for reward in self.custom:
            reward.load_state_dict(state[reward.path])

    def _tell_of_unscored(self, rows: Sequence[Sequence[Scored]]) -> None:
        """Say at the first call which custom rewards scored nothing: their weight then has no effect."""
        if not self._is_first:
            return
        self._is_first = False
        for n, reward in enumerate(self.custom):
            values = [value for row in rows for value in row[n].values]
            if values and all(value is None for value in values):
                self._tell(f"warning: reward {reward.path} scored none of the first {len(values)} completions")

    def _custom_values(self, group: Group) -> list[Scored]:
        waits = [reward.start(group.example, group.completions) for reward in self.custom]
        return [wait() for wait in waits]

    def _parse(self, group: Group) -> ParsedGroup:
        form = {"reasoning": self.reasoning, "refusals": self.refusals}
        answers = [parse_completion(group.example, c, **form) for c in group.completions]
        return ParsedGroup(group.example, answers, self.refusals, rewardable_statements(group.example, answers))

    def _parts(self, groups: Sequence[ParsedGroup]) -> list[list[tuple[Parts, dict[str, Any]]]]:
        """The built-in parts of every completion and their details.

        The judge is asked in two rounds, since only credited statements have citations to judge.
        """
        config = self.config
        verdicts = ask(self.judge, chain.from_iterable(answer_pairs(group, config) for group in groups))
        earned = [credit(group, verdicts, config) for group in groups]
        verdicts |= ask(self.judge, chain.from_iterable(own.citations.values() for own in earned))
        parts = []
        for group, own in zip(groups, earned, strict=True):
            ground = ground_grpo_rewards(group, own, verdicts, config, reasoning=self.reasoning)
            extra = extra_rewards(group, verdicts, config)
            why = details(group, own, verdicts)
            parts.append([(row | more, about) for row, more, about in zip(ground, extra, why, strict=True)])
        return parts

    def _scores(self, built_in: list[tuple[Parts, dict[str, Any]]], custom: list[Scored]) -> list[Score]:
        weights = self.config.weights
        rows, details = [parts for parts, _ in built_in], [about for _, about in built_in]
        totals = [sum(weights.get(name, 1.0) * value for name, value in row.items()) for row in rows]
        for reward, scored in zip(self.custom, custom, strict=True):
            for name, column in scored.columns.items():
                for row, value in zip(details, column, strict=True):
                    row.setdefault("log", {})[name] = value
            for n, (value, counted) in enumerate(zip(scored.values, impute_missing(scored.values), strict=True)):
                totals[n] += weights[reward.path] * counted
                if value is not None:
                    rows[n][reward.path] = value
        return [Score(total=t, parts=row, details=why) for t, row, why in zip(totals, rows, details, strict=True)]


def merge_metrics(ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One set of metrics from what `RewardScorer.pop_metrics` gave on each rank: sums of failures, means of the rest.

    >>> merge_metrics([{"reward_failures/f": 1.0, "reward_log/n": 2.0}, {"reward_failures/f": 2.0}])
    {'reward_failures/f': 3.0, 'reward_log/n': 2.0}
    """
    found: dict[str, list[float]] = {}
    for metrics in ranks:
        for name, value in metrics.items():
            found.setdefault(name, []).append(value)
    return {n: sum(v) / (1 if n.startswith("reward_failures/") else len(v)) for n, v in found.items()}


def impute_missing(values: Values) -> list[float]:
    """The values with the mean of the others in place of None; zeros if all are None.

    >>> impute_missing([1.0, None, 0.0]), impute_missing([None, None])
    ([1.0, 0.5, 0.0], [0.0, 0.0])
    """
    scored = [value for value in values if value is not None]
    mean = sum(scored) / len(scored) if scored else 0.0
    return [mean if value is None else value for value in values]


def tag_count(answer: ParsedAnswer, *, reasoning: bool) -> float:
    """R_tag_count (eq 3): 1/4 * |{t in <think>, </think>, <answer>, </answer> : count(t) = 1}|.

    The plain format has no tags, so there it is the share of tags that appear 0 times. Both formats then start from the
    same 1.0, and the paper's totals hold for both.
    """
    expected = 1 if reasoning else 0
    return sum(answer.tags[tag] == expected for tag in TAGS) / len(TAGS)


def rewardable_statements(example: Example, answers: Sequence[ParsedAnswer]) -> list[tuple[Statement, ...]]:
    """The statements of each answer that R_EM may reward: of well-formed answers to an answerable question."""
    answerable = example.answerable
    return [answer.statements if answer.well_formed and answerable and not answer.refused else () for answer in answers]


def answer_pairs(group: ParsedGroup, config: RewardConfig) -> list[Pair]:
    """The pairs of the first round: statements against claims, and thinking against the decision."""
    claims = claim_pairs(group.example, group.rewardable)
    pairs = [pair for _, _, pair in claims]
    if FACTUALITY.keys() & config.weights.keys():
        pairs += outcome_pairs(group.example, group.answers)
    if config.consistency:
        pairs += filter(None, (consistency_pair(answer, group.refusals[0]) for answer in group.answers))
    return pairs


def credit(group: ParsedGroup, verdicts: Verdicts, config: RewardConfig) -> Credits:
    """The statements of each answer that earn R_EM, and the factor on what they earn."""
    earned: list[list[float]] = []
    statements: list[list[Credited]] = []
    factors: list[float] = []
    shared = group.example.style == "claims"
    stated = answers_stated(
        group.example,
        group.rewardable,
        verdicts,
        repeats=config.uncapped_sum,
    )
    for row, answers in zip(group.rewardable, stated, strict=True):
        shares = statement_credits(answers, shared=shared, uncapped_sum=config.uncapped_sum)
        earned.append(shares)
        credited = [pair for pair in zip(row, shares, strict=True) if pair[1]]
        statements.append(credited)
        allowed = words_allowed(group.example, frozenset().union(*answers))
        factors.append(length_penalty(len(credited), allowed, row) if config.anti_gaming_sums else 1.0)
    citations = citation_pairs(group.example, statements, anti_gaming=config.anti_gaming_sums)
    return Credits(stated, earned, statements, factors, citations)


def details(group: ParsedGroup, earned: Credits, verdicts: Verdicts) -> list[dict[str, Any]]:
    """Why each answer earned what it did: its statements with citations, answers said and verdicts."""
    gold = group.example.answers
    rows = []
    for n, answer in enumerate(group.answers):
        statements = [{"text": s.text, "cites": list(s.cites)} for s in answer.statements]
        for row, statement, said, share in zip(
            statements, group.rewardable[n], earned.stated[n], earned.shares[n], strict=False
        ):  # of a refusal and of a malformed answer no statement is rewardable
            verdict = support(statement, earned.citations, verdicts)
            row |= {"answers": [gold[a][0] for a in sorted(said)], "share": share, "supported": verdict}
        rows.append({"refused": answer.refused, "flaws": list(answer.flaws), "statements": statements})
        rows[-1]["length_factor"] = earned.factors[n]
    return rows


def ground_grpo_rewards(
    group: ParsedGroup, earned: Credits, verdicts: Verdicts, config: RewardConfig, *, reasoning: bool
) -> list[Parts]:
    """Algorithm 1 for the answers to one question."""
    citation = citation_rewards(
        earned.statements,
        earned.citations,
        verdicts,
        penalty=config.citation_penalty,
        anti_gaming=config.anti_gaming_sums,
        factors=earned.factors,
    )
    rows = []
    for answer, credited, factor, cited in zip(group.answers, earned.statements, earned.factors, citation, strict=True):
        parts = {
            "tag_count": tag_count(answer, reasoning=reasoning),  # eq 3
            "format": float(answer.well_formed),  # eq 4
            # eqs 1 and 2; 0 unless answerable, well formed and no refusal (rewardable_statements)
            "exact_match": EXACT_MATCH * factor * sum((share for _, share in credited), 0.0),
            "citation": cited,
        }
        if config.refusal:
            hedged = config.anti_gaming and not is_pure_refusal(answer.answer_text, group.refusals)
            refusal = refusal_reward(answer.refusal_score, answerable=group.example.answerable, hedged=hedged)  # eq 6
            parts["refusal"] = refusal if answer.well_formed else 0.0
        rows.append(parts)
    return rows


def extra_rewards(group: ParsedGroup, verdicts: Verdicts, config: RewardConfig) -> list[Parts]:
    """The parts beyond Algorithm 1 that the config switches on or names."""
    example, answers, named = group.example, group.answers, config.weights.keys()
    columns = {name: overlap_rewards(example, answers, f) for name, f in OVERLAPS.items() if name in named}
    if FACTUALITY.keys() & named:
        found = outcomes(example, answers, verdicts, group.refusals)
        columns |= {name: reward(found) for name, reward in FACTUALITY.items() if name in named}
    if config.consistency:
        columns["consistency"] = consistency_rewards(answers, verdicts, group.refusals[0])
    return [{name: values[n] for name, values in columns.items()} for n in range(len(answers))]
