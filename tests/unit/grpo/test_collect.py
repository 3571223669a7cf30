"""Collection of groups: dynamic sampling, seeds, and samplers that do not run the policy's weights."""

import itertools

import pytest

from grpo.collect import check_same_policy, prompts_still_needed, select_for_update
from grpo.config import load
from grpo.errors import StaleWeights
from grpo.rollout.base import derive_seed
from grpo.rollout.hf import HfRollout
from grpo.types import Completion, Group, SamplingConfig, Score
from launch.builders.policy import choose_logprob_gap
from launch.config.recipe import Recipe
from tests.helpers.toy import example, tiny_model
from tests.helpers.toy_training import hf_rollout, low_bytes, run_toy

WROTE = Completion(text="", token_ids=(1,), logprobs=(0.0,), finish="stop", version=0)


def group(number, *totals):
    scores = tuple(Score(total=total, parts={}) for total in totals)
    return Group(example=example(number), prompt_ids=(1,), completions=(WROTE,) * len(totals), scores=scores)


def groups(pattern):
    """One group per letter: "x" has zero variance, "o" has a signal."""
    return [group(n, 1.0, 0.0 if letter == "o" else 1.0) for n, letter in enumerate(pattern)]


def numbers(some):
    return [int(g.example.id.removeprefix("toy-")) for g in some]


def ask_enough(pattern, sampling, *, world=1):
    """(the groups of a step, how many were asked each time) from a stream of groups."""
    stream, found, asked = groups(pattern), [], []
    while number := prompts_still_needed(found, sampling, world=world):
        found = stream[: len(found) + number]
        asked.append(number)
    return found, asked


@pytest.mark.parametrize("mode", ["off", "drop"])
def test_without_refill_nothing_is_asked_again(mode):
    found, asked = ask_enough("xxxx", SamplingConfig(prompts_per_step=4, dynamic=mode))
    assert numbers(found) == [0, 1, 2, 3]
    assert asked == [4]


REFILL = SamplingConfig(prompts_per_step=4, dynamic="refill", refill_cap=3)


@pytest.mark.parametrize(
    ("pattern", "world", "asks", "selected"),
    [
        ("xoxo" + "xo" + "o" + "oooo", 1, [4, 2, 1], [1, 3, 5, 6]),  # exactly what is missing
        ("x" * 5 + "o" + "x" * 100, 1, [4, 4, 3, 1], [0, 1, 2, 5]),  # up to the cap; others fill up
        ("xooo" + "xx" + "ox" + "oo", 2, [4, 2, 2], [1, 2, 3, 6]),  # one is missing, and two ranks ask for it
    ],
)
def test_refill(pattern, world, asks, selected):
    found, asked = ask_enough(pattern, REFILL, world=world)
    assert asked == asks
    assert len(found) == sum(asks)
    assert numbers(select_for_update(found, REFILL, at_least=world)) == selected


@pytest.mark.parametrize(
    ("pattern", "at_least", "kept"),
    [
        ("xoxo", 1, [1, 3]),
        ("xxxx", 1, [0]),  # a batch cannot be empty; nothing in this one teaches, and no step is taken
        ("xoxx", 2, [0, 1]),
        ("ooox", 2, [0, 1, 2]),  # as on one rank: one more group would shorten the step
        ("oxxxxxxx", 4, [0, 1, 2, 3]),  # two updates on two ranks need a group each
    ],
)
def test_drop_leaves_the_groups_with_a_signal(pattern, at_least, kept):
    sampling = SamplingConfig(prompts_per_step=len(pattern), dynamic="drop")
    assert numbers(select_for_update(groups(pattern), sampling, at_least=at_least)) == kept


def test_off_keeps_everything():
    some = groups("xoxo")
    assert select_for_update(some, SamplingConfig(), at_least=4) == some


def some_zero(example, completions):
    """Low bytes for the questions with an even number; nothing at all for the others."""
    zero = int(example.id.removeprefix("toy-")) % 2
    return [Score(total=0.0, parts={}) for _ in completions] if zero else low_bytes(example, completions)


@pytest.mark.parametrize(
    ("dynamic", "asked", "zero", "updated"), [("off", 4, 2, 2), ("drop", 4, 2, 2), ("refill", 7, 3, 4)]
)
def test_zero_variance_groups_stay_are_dropped_or_replaced(tmp_path, dynamic, asked, zero, updated):
    """The questions come as 0 5 1 4, 3 2, 2, and the odd ones have zero variance: two are missing, then one.

    With kl = 0 such a group that stays has no rows in the update either; its tokens count in the average."""
    policy, (row,) = run_toy(tmp_path / "run", steps=1, score=some_zero, dynamic=dynamic)
    found = (row["count/completions"] / 8, row["group/zero_variance"], row["group/zero_variance_share"], policy.seen)
    assert found == (asked, zero, zero / asked, [updated])


def test_no_two_requests_of_any_run_share_a_seed():
    """With sums of products, run 3 of step 5 once met run 4 of step 4."""
    parts = list(itertools.product(range(40), range(50), range(4), (0, 4, 6)))
    assert len({derive_seed(*of) for of in parts}) == len(parts) == 24_000
    assert derive_seed(3, 5, 1, 4) == 239_658_770_456_665


class Forgetful(HfRollout):
    """An engine that takes new weights once and then only says so."""

    def load(self, weights, *, version):
        if version == 0:
            super().load(weights, version=version)
        self._version = version


class Lagging(HfRollout):
    """An engine that still answers with the version before."""

    def load(self, weights, *, version):
        super().load(weights, version=max(version - 1, 0))


class StaleHead(HfRollout):
    """An engine whose head, alone of all weights, stays what it was."""

    def load(self, weights, *, version):
        copies = {name: tensor.clone() for name, tensor in weights}
        self._first_head = getattr(self, "_first_head", copies["lm_head.weight"])
        super().load({**copies, "lm_head.weight": self._first_head}.items(), version=version)


def test_an_engine_that_forgets_to_load_stops_the_run(tmp_path):
    """With a step large enough to show, the next rollout is caught: step 1, before anything else happens."""
    with pytest.raises(StaleWeights, match="step 1: sampler and trainer differ"):
        run_toy(tmp_path / "run", steps=5, rollout=hf_rollout(Forgetful), lr=3e-2)


def test_an_engine_that_forgets_to_load_is_seen_where_no_group_teaches(tmp_path):
    """In the second step all groups have zero variance, so the update runs no model."""
    asked = []

    def first_four(example, completions):
        asked.append(example.id)
        return low_bytes(example, completions) if len(asked) <= 4 else [Score(total=0.0, parts={}) for _ in completions]

    with pytest.raises(StaleWeights, match="step 1: sampler and trainer differ"):
        run_toy(tmp_path / "run", steps=5, rollout=hf_rollout(Forgetful), lr=3e-2, score=first_four)


def test_an_engine_that_lags_stops_the_run(tmp_path):
    with pytest.raises(StaleWeights, match="weights 0, the trainer is at 1"):
        run_toy(tmp_path / "run", steps=5, rollout=hf_rollout(Lagging))


def test_a_stale_head_that_the_limit_of_bfloat16_lets_pass_stops_a_run_in_float32(tmp_path):
    recipes = (load(Recipe, [f"--policy.dtype={dtype}"]) for dtype in ("bfloat16", "float32"))
    loose, strict = (choose_logprob_gap(r.loss, r.policy, top_p=r.sampling.top_p) for r in recipes)

    def run(folder, limit):
        model, rollout = tiny_model(tied=False), hf_rollout(StaleHead, tied=False)
        return run_toy(folder, steps=2, lr=3e-3, model=model, rollout=rollout, limit=limit)[1]

    assert 0.005 < run(tmp_path / "a", loose)[1]["policy/mismatch"] < 0.05
    with pytest.raises(StaleWeights, match=r"step 1: sampler and trainer differ by 0.0\d+ .*limit 0.005"):
        run(tmp_path / "b", strict)
    with pytest.raises(StaleWeights, match=r"differ by 0.029 nats .*limit 0.005"):
        check_same_policy({"mismatch": 0.029}, limit=strict, step=1)  # what the embedded model's stale head gave
    check_same_policy({"mismatch": 0.029}, limit=loose, step=1)
