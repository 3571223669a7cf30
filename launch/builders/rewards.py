"""The [reward] section of a recipe -> the scorer, and judges of entailment by name."""

from collections.abc import Sequence

from grpo.data.example import Example
from grpo.telemetry.console import Console
from launch.builders.models import cache_errors, cache_folder
from rewards.audit import QUESTIONS, audit, policies_that_beat_honesty, questions_of
from rewards.config import RewardConfig
from rewards.custom import load_custom_rewards
from rewards.judges.base import Judge
from rewards.judges.load import WORD_JUDGES, load_judge
from rewards.scorer import RewardScorer


def make_judge(name: str, *, console: Console) -> Judge:
    """Return a judge of entailment; the verdicts of a model are kept beside the converted models."""
    if name in WORD_JUDGES:
        return load_judge(name)
    folder = cache_folder()
    with cache_errors():
        folder.mkdir(parents=True, exist_ok=True)
    return load_judge(name, cache=folder / "verdicts.sqlite", tell=console.status)


def make_scorer(
    config: RewardConfig,
    *,
    reasoning: bool,
    refusals: Sequence[str],
    audited: Sequence[Example] | None,
    console: Console,
) -> tuple[RewardScorer, Judge]:
    """Return the scorer and its judge. Prints which policies could game the rewards on the examples `audited`.

    The audit takes its own questions where that list is empty; there is no audit where it is None.
    """
    config.check_format(reasoning=reasoning)
    custom = load_custom_rewards(config)  # the user's errors are found before a judge is loaded
    judge = make_judge(config.judge, console=console)
    form = {"reasoning": reasoning, "refusals": refusals}
    if audited is not None:
        questions = questions_of(audited, refusal=refusals[0]) if audited else QUESTIONS
        if hacks := policies_that_beat_honesty(audit(config, **form, judge=judge, questions=questions)):
            console.line(f"hackable by  {', '.join(hacks)}: more reward than honest answers (python -m rewards.audit)")
    return RewardScorer(config, **form, judge=judge, custom=custom, tell=console.line), judge
