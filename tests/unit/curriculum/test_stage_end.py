"""The end of a stage: the plateau rule worked by hand, and metrics that are missing for some steps or always."""

import math

import pytest
from pydantic import ValidationError

from curriculum.stage_end import StageEnd, StageEndConfig, check_stage_end, has_plateaued
from grpo.errors import UserError


@pytest.mark.parametrize(
    ("values", "window", "tolerance", "expected"),
    [
        ([1, 1, 1, 1], 2, 0.0, True),
        ([1, 1, 1], 2, 0.0, False),  # two windows are needed
        ([0, 0, 1, 1, 1, 1], 2, 0.0, True),  # what came before them does not count
        ([1, 1, 1.1, 1.1], 2, 0.11, True),  # the means differ by 0.1
        ([1, 1, 1.1, 1.1], 2, 0.09, False),
        ([1, 3, 3, 1], 2, 0.0, True),  # noise within a window is none of its business
        ([2, 2, 1, 1], 2, 0.5, False),  # a fall is no plateau
        ([0.0, 0.1, 0.2, 0.3], 2, 0.21, True),  # a climb of s a step moves the mean by s * window = 0.2
        ([0.0, 0.1, 0.2, 0.3], 2, 0.19, False),
        ([1, 1, math.nan, 1], 2, 9.0, False),
        ([1, 1, math.inf, 1], 2, 9.0, False),
        ([5, 5], 1, 0.0, True),
    ],
)
def test_flat_worked_by_hand(values, window, tolerance, expected):
    assert has_plateaued(values, window=window, tolerance=tolerance) is expected


def opened(gate, rewards):
    """The step after which the gate opens, from 1; 0 for never."""
    return next((step for step, value in enumerate(rewards, 1) if gate({"reward/total": value})), 0)


def test_a_plateau_opens_the_gate_once_the_climb_is_over():
    climb = [0.1 * step for step in range(10)] + [1.0] * 10
    plateau = {"when": "plateau", "window": 3, "tolerance": 0.05}
    assert opened(StageEnd(StageEndConfig(**plateau)), climb) == 15  # 0.9, 1, 1: 0.03 below 1, 1, 1; 0.8, 0.9, 1: 0.1
    assert opened(StageEnd(StageEndConfig(**{**plateau, "tolerance": 0.02})), climb) == 16
    assert opened(StageEnd(StageEndConfig(when="steps", window=1)), climb) == 0
    assert opened(StageEnd(StageEndConfig(when="hand", window=1)), climb) == 0


def test_a_gate_goes_on_where_it_was_saved():
    climb = [0.1 * step for step in range(10)] + [1.0] * 10
    settings = StageEndConfig(when="plateau", window=3, tolerance=0.05)
    first, second = StageEnd(settings), StageEnd(settings)
    assert opened(first, climb[:12]) == 0
    second.load_state_dict(first.state_dict())
    assert opened(second, climb[12:]) == 3
    third = StageEnd(settings)
    assert (second.is_reached, third.is_reached) == (True, False)
    third.load_state_dict(second.state_dict())
    assert third.is_reached


def test_metrics_of_some_steps_are_waited_for():
    gate = StageEnd(StageEndConfig(when="plateau", metric="held_out/f1_gr", window=1, tolerance=0.0))
    rows = [{"reward/total": 1.0}, {"held_out/f1_gr": 5.0}, {"reward/total": 1.0}, {"held_out/f1_gr": 5.0}]
    assert [gate(row) for row in rows] == [False, False, False, True]


def test_a_held_out_metric_is_missed_where_others_were_measured():
    gate = StageEnd(StageEndConfig(when="plateau", metric="held_out/trustscore", window=1))
    assert not gate({"reward/total": 1.0})
    with pytest.raises(UserError, match=r"'held_out/trustscore' is not logged by this run; nearest: held_out/trust_s"):
        gate({"reward/total": 1.0, "held_out/trust_score": 40.0})


@pytest.mark.parametrize("metric", ["trust/over_refusal", "factuality/not_attempted"])
def test_a_share_of_some_questions_is_waited_for_a_window_of_steps(metric):
    """A step may have no answerable question, or no closed-book one; three in a row at the start are not believed."""
    gate = StageEnd(StageEndConfig(when="plateau", metric=metric, window=3, tolerance=0.0))
    without = {"reward/total": 1.0, "trust/answerable": 0.0}
    seen = [gate(row) for row in [without, without, *[{metric: 5.0}] * 5, *[without] * 5, {metric: 5.0}]]
    assert seen == [False] * 12 + [True]
    never = StageEnd(StageEndConfig(when="plateau", metric=metric, window=3))
    assert [never(without), never(without)] == [False, False]
    with pytest.raises(UserError, match=rf"stage_end.metric = '{metric}' is not logged by this run; nearest: "):
        never(without)


def test_a_metric_that_is_never_logged_is_one_line():
    gate = StageEnd(StageEndConfig(when="plateau", metric="reward/totl"))
    with pytest.raises(
        UserError, match=r"stage_end.metric = 'reward/totl' is not logged by this run; nearest: reward/tot"
    ):
        gate({"reward/total": 1.0, "time/rollout": 2.0, "group/zero_variance": 0.0})
    for metric in ("total", "rewards/total", "time/step", "reward/"):
        with pytest.raises(
            ValidationError, match=r"stage_end.metric = .* is never logged; valid: reward/..., group/..."
        ):
            StageEndConfig(metric=metric)


def test_a_plateau_that_could_never_be_seen():
    plateau = StageEndConfig(when="plateau", window=10)
    check_stage_end(plateau, steps=20, every=0)
    with pytest.raises(UserError, match=r"window = 10 .* 20 measurements, and this stage makes 19; .* at most 9"):
        check_stage_end(plateau, steps=19, every=0)
    held_out = StageEndConfig(when="plateau", window=2, metric="held_out/f1_gr")
    check_stage_end(held_out, steps=8, every=2)
    with pytest.raises(UserError, match=r"makes 3; valid: stage_end.window of at most 1"):
        check_stage_end(held_out, steps=6, every=2)
    with pytest.raises(UserError, match=r"held_out.every = 0 measures no held-out question"):
        check_stage_end(held_out, steps=100, every=0)
    check_stage_end(StageEndConfig(when="hand", metric="held_out/f1_gr"), steps=1, every=0)
