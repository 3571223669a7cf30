"""The check of a run's own targets: gold answers are encoded, decoded and scored before training starts.

A gold answer that loses reward on the way, or that the rewards do not recognize, would teach the model something wrong.
The causes are special tokens, a chat template, tags, a limit of tokens, or the reading of answers.
"""

from collections.abc import Sequence
from dataclasses import replace

from grpo.data.example import Example
from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.types import Group, Score
from launch.builders.prompts import PromptCodec
from rewards.config import RewardConfig
from rewards.judges.base import Judge, Pair
from rewards.judges.gold_support import judge_warning
from rewards.scorer import RewardScorer

TARGETS = 200  # gold answers that are looked at
AUDITED = 20  # questions on which degenerate policies are tried
SHOWN = 3  # of those that lose reward


class AgreeableJudge:
    """Finds everything entailed, so that only format, length and the reading of answers can cost reward."""

    def entails(self, pairs: Sequence[Pair]) -> list[float]:
        return [1.0] * len(pairs)


def spread(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """At most `count` of the examples, at equal distances."""
    return examples[:: max(1, -(-len(examples) // count))]


def check_targets(
    codec: PromptCodec,
    examples: Sequence[Example],
    config: RewardConfig,
    console: Console,
    *,
    max_tokens: int,
    may_lose: float,
) -> None:
    """Print how many gold answers earn full reward, and why others do not.

    UserError where more than the share `may_lose` lose reward to encoding, template, tags or length.
    """
    groups = [codec.encode_reference(example) for example in examples]
    as_sampled = [_decoded(group, codec, max_tokens=max_tokens) for group in groups]
    written, read = (_scores(config, codec, AgreeableJudge(), of) for of in (groups, as_sampled))
    lost = [group for group, before, after in zip(as_sampled, written, read, strict=True) if after.total < before.total]
    cut = sum(group.completions[0].finish == "length" for group in lost)
    console.line(f"targets      {len(groups) - len(lost)} of {len(groups)} gold answers survive encoding and decoding")
    for group in lost[:SHOWN]:
        console.line(f"{'':12} lost: {_about(group)}")
    unread = [group for group, score in zip(groups, written, strict=True) if _unread(group.example, score)]
    if unread:
        console.line(f"warning: exact_match is 0 for {len(unread)} of {len(groups)} gold answers")
    for group in unread[:SHOWN]:
        console.line(f"{'':12} not recognized: {_about(group)}")
    if len(lost) > may_lose * len(groups):
        lengths = sorted(len(group.completions[0].token_ids) for group in groups)
        room = lengths[int(0.9 * (len(lengths) - 1))]
        raise UserError(
            f"{len(lost)} of {len(groups)} gold answers lose reward when they are encoded and decoded: {cut} are "
            f"longer than sampling.max_tokens = {max_tokens} (nine of ten fit into {room}), {len(lost) - cut} are read "
            f"back as something else; valid: at most the share run.max_lost_targets = {may_lose:g}"
        )


def check_judge(
    codec: PromptCodec, examples: Sequence[Example], config: RewardConfig, judge: Judge, console: Console
) -> None:
    """Warn of a judge that finds many gold answers unsupported by the passages that they cite."""
    groups = [codec.encode_reference(example) for example in examples if example.answerable]
    agreeable, judged = (_scores(config, codec, of, groups) for of in (AgreeableJudge(), judge))
    refused = [group for group, most, own in zip(groups, agreeable, judged, strict=True) if own.total < most.total]
    if refused:
        console.line(
            f"judge        {config.judge} finds {len(refused)} of {len(groups)} gold answers unsupported by the "
            "passages that they cite"
        )
    for group in refused[:SHOWN]:
        console.line(f"{'':12} unsupported: {_about(group)}")
    warning = judge_warning(judge, config.judge, [(group.example, group.completions[0].text) for group in groups])
    if warning:
        console.line(f"warning: {warning}")


def _decoded(group: Group, codec: PromptCodec, *, max_tokens: int) -> Group:
    """The group with its completion as the sampler would hand it over."""
    (completion,) = group.completions
    ids = completion.token_ids[:max_tokens]
    finish = "stop" if ids[-1] in codec.stop_ids else "length"
    return replace(group, completions=(replace(completion, text=codec.decode(ids), finish=finish),))


def _scores(config: RewardConfig, codec: PromptCodec, judge: Judge, groups: Sequence[Group]) -> list[Score]:
    """The score of each group's one completion, without custom rewards."""
    weights = {name: weight for name, weight in config.weights.items() if ":" not in name}
    built_in = config.model_copy(update={"weights": weights})
    form = {"reasoning": codec.reasoning, "refusals": codec.refusals}
    scorer = RewardScorer(built_in, **form, judge=judge, custom=())
    return [score for (score,) in scorer(groups)]


def _unread(example: Example, score: Score) -> bool:
    return example.style != "closed" and example.answerable and score.parts["exact_match"] == 0


def _about(group: Group) -> str:
    example = group.example
    return f"{example.id} ({example.question[:60]!r}): {group.completions[0].text[-80:]!r}"
