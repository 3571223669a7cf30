"""The audit at the start of a run: of its own questions, of built-in ones, or none."""

import pytest

from curriculum.datasets.world import make_world
from grpo.data.text import REFUSALS
from grpo.telemetry.console import Console
from launch.builders.rewards import make_scorer
from rewards.config import RewardConfig

WORLD = make_world(6, seed=0, unanswerable=0.5, passages=3, styles={"prose": 1.0})


@pytest.mark.parametrize(("audited", "says"), [(WORLD, True), ([], True), (None, False)])
def test_a_run_without_passages_audits_the_built_in_questions(audited, says, capsys):
    """The sum of the paper pays every repetition of a sentence."""
    hackable = RewardConfig(uncapped_sum=True)
    make_scorer(hackable, reasoning=False, refusals=REFUSALS, audited=audited, console=Console())
    assert ("hackable by  repeat one sentence: " in capsys.readouterr().out) == says
