"""The whole loop on a random tiny model: it learns, it is reproducible, and it stops when the sampler is stale."""

import json
import math
from dataclasses import replace

import pytest
import torch

from curriculum.samplers import EpochSampler
from grpo.advantages import gdpo_advantages, group_advantages
from grpo.config import load
from grpo.distributed.communicator import Alone
from grpo.dynamic_sampling import Dynamic
from grpo.errors import StaleWeights, UserError
from grpo.loop import LoopSettings, check_same_policy, closed, compare, parts, train
from grpo.losses import Objective
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import SinglePolicy
from grpo.rollout.hf import HfRollout
from grpo.telemetry.run_logger import Console, RunLog
from grpo.types import Group, Sampling, Score
from launch.builders.assemble import loop_settings
from launch.config.recipe import Recipe
from tests.helpers.many_ranks import run_ranks
from tests.helpers.toy import EOS, ByteTokenizer, example, per_group, random_batch, tiny_model


def low_bytes(example, completions):
    """Reward: the share of bytes below 32, stop token included; 1/8 for a model that knows nothing."""
    shares = [sum(token < 32 for token in c.token_ids) / len(c.token_ids) for c in completions]
    return [Score(total=share, parts={"low_bytes": share}) for share in shares]


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


def hf(engine=HfRollout, *, tied=True):
    return engine(tiny_model(seed=9, tied=tied), decode=ByteTokenizer().decode, eos_ids=(EOS,))


class Counting(SinglePolicy):
    """A policy that remembers how many groups each update saw."""

    seen: list[int]

    def update(self, batch, objective):
        self.seen = [*getattr(self, "seen", []), len(set(batch.group_B.tolist()))]
        return super().update(batch, objective)


def some_dead(example, completions):
    """Low bytes for the questions with an even number; nothing at all for the others."""
    dead = int(example.id.removeprefix("toy-")) % 2
    return [Score(total=0.0, parts={}) for _ in completions] if dead else low_bytes(example, completions)


def run(
    folder, *, steps, rollout=None, model=None, prompt="Q{}:", seed=0, updates=1, kl=0.0, lr=1e-2, score=low_bytes,
    dynamic="off", gate=closed, limit=0.05,
):  # fmt: skip
    """Train `model`, or the tiny one, on the low bytes; `prompt` has a place for the example's id."""
    folder.mkdir()
    model = model or tiny_model()
    policy = Counting(
        model,
        optim=AdamWConfig(lr=lr, warmup_ratio=0.0, schedule="constant"),
        updates=steps * updates,
        token_budget=512,
        dtype="float32",
        reference=tiny_model() if kl else None,
    )
    cfg = LoopSettings(
        steps=steps,
        prompts_per_step=4,
        sampling=Sampling(group_size=8, max_tokens=8),
        objective=Objective(kl_coef=kl),
        aggregation="token",
        updates_per_step=updates,
        dynamic=Dynamic(mode=dynamic, cap=3),
        seed=seed,
        max_logprob_gap=limit,
    )
    train(
        cfg,
        policy=policy,
        rollout=rollout or hf(),
        curriculum=EpochSampler([example(i) for i in range(6)], seed=seed),
        score=per_group(score),
        gate=gate,
        render=lambda e: tuple(prompt.format(e.id).encode()),
        comm=Alone(),
        log=RunLog(folder, name="toy", steps=steps, console=Console(), project="test", settings={}),
    )
    return policy, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flat(policy):
    return torch.cat([tensor.flatten() for _, tensor in policy.export_weights()])


def test_the_toy_learns(tmp_path):
    _, metrics = run(tmp_path / "run", steps=40)
    rewards = [row["reward/total"] for row in metrics]
    assert rewards[0] < 0.2
    assert sum(rewards[-5:]) / 5 > 0.8
    taught = [row for row in metrics if not row["policy/skipped"]]
    assert len(taught) > 10
    assert all(row["policy/ratio"] == pytest.approx(1.0, abs=1e-6) for row in taught)
    assert max(row["policy/mismatch"] for row in metrics) < 1e-5
    for name in ("time/rollout", "time/score", "time/update", "memory/peak_gb", "policy/lr"):
        assert all(math.isfinite(row[name]) and row[name] >= 0 for row in metrics), name


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, _ = run(tmp_path / "a", steps=3)
    again, _ = run(tmp_path / "b", steps=3)
    other, _ = run(tmp_path / "c", steps=3, seed=1)
    assert torch.equal(flat(first), flat(again))
    assert not torch.equal(flat(first), flat(other))


def test_several_updates_and_a_reference(tmp_path):
    _, metrics = run(tmp_path / "run", steps=3, updates=2, kl=0.1)
    assert metrics[0]["policy/kl"] >= 0
    assert metrics[-1]["policy/kl"] > 1e-4  # the policy has left the reference
    assert metrics[-1]["policy/ratio"] != 1.0  # the second update is off policy


def test_a_gate_ends_the_stage_after_the_step_that_opened_it(tmp_path):
    seen = []
    _, metrics = run(
        tmp_path / "run", steps=5, gate=lambda values: seen.append(values["reward/total"]) or len(seen) == 2
    )
    assert [row["reward/total"] for row in metrics] == seen
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("dynamic", "asked", "dead", "taught"), [("off", 4, 2, 2), ("drop", 4, 2, 2), ("refill", 7, 3, 4)]
)
def test_dead_groups_stay_are_dropped_or_replaced(tmp_path, dynamic, asked, dead, taught):
    """The questions come as 0 5 1 4, 3 2, 2, and the odd ones are dead: two are missing, then one.

    With kl = 0 a dead group that stays has no rows in the update either; its tokens count in the average."""
    policy, (row,) = run(tmp_path / "run", steps=1, score=some_dead, dynamic=dynamic)
    assert (row["count/completions"] / 8, row["group/dead"], policy.seen) == (asked, dead, [taught])


def scored(loud, quiet):
    """The scores of a group; None: a completion that this part did not score."""
    rows = [{"loud": a} | ({} if b is None else {"quiet": b}) for a, b in zip(loud, quiet, strict=True)]
    return tuple(Score(total=sum(row.values()), parts=row) for row in rows)


SCORES = [scored([1, 0, 0], [0.01, 0, 0]), scored([1, 0, 0], [0, None, 0.01]), scored([2, 2, 2], [0.5, 0.5, 0.5])]
SCORES += [scored([0, 0, 3], [0.5, 0, 0.5])]
GROUPS = [Group(example=example(n), prompt_ids=(1,), completions=(), scores=s) for n, s in enumerate(SCORES)]
PER_REWARD = LoopSettings(
    steps=1, prompts_per_step=4, sampling=Sampling(group_size=3, max_tokens=1), objective=Objective(),
    advantage="per_reward", weights={"quiet": 2.0},
)  # fmt: skip


def test_per_reward_compares_part_by_part():
    """Two parts, of which one is mostly a hundredth of the other, and one that a completion was not scored by."""
    loud = [[1, 0, 0], [1, 0, 0], [2, 2, 2], [0, 0, 3]]
    quiet = [[0.01, 0, 0], [0, 0.005, 0.01], [0.5, 0.5, 0.5], [0.5, 0, 0.5]]
    found = compare(GROUPS, GROUPS, PER_REWARD, Alone())
    assert torch.allclose(found, gdpo_advantages(torch.tensor([loud, quiet]), torch.tensor([1.0, 2.0])), atol=1e-6)
    assert found[2].tolist() == [0.0, 0.0, 0.0]
    assert found[1, 2] > found[1, 0]  # by the quiet part's weight; by totals it is the other way round
    by_total = compare(GROUPS, GROUPS, replace(PER_REWARD, advantage="std"), Alone())
    assert by_total[1, 2] < by_total[1, 0]
    assert torch.equal(by_total, group_advantages(torch.tensor([[s.total for s in row] for row in SCORES]).double()))


def own_groups(comm):
    return compare(GROUPS[comm.rank :: comm.world], GROUPS, PER_REWARD, comm).tolist()


def test_per_reward_over_two_ranks_is_that_over_one():
    """The standard deviation that divides the sums is of the groups of both."""
    whole = compare(GROUPS, GROUPS, PER_REWARD, Alone())
    for rank, ran in enumerate(run_ranks(own_groups)):
        assert torch.allclose(torch.tensor(ran.value), whole[rank::2], atol=1e-6), ran


def test_a_recipe_that_compares_part_by_part():
    recipe = ["--loss.advantage=per_reward", "--reward.weights={citation=2.0}"]
    cfg = loop_settings(load(Recipe, recipe), steps=1)
    assert (cfg.advantage, cfg.weights, cfg.dead_are_free) == ("per_reward", {"citation": 2.0}, False)
    with pytest.raises(UserError, match=r'sampling.dynamic = "drop" leaves out groups'):
        loop_settings(load(Recipe, [*recipe, "--sampling.dynamic=drop"]), steps=1)


def test_transcripts_hold_every_completion(tmp_path):
    run(tmp_path / "run", steps=2)
    rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 4 * 8
    assert {"step", "id", "question", "text", "reward", "reward/low_bytes", "version", "finish"} <= set(rows[0])


def test_an_engine_that_forgets_to_load_stops_the_run(tmp_path):
    """With a step large enough to show, the next rollout is caught: step 1, before anything else happens."""
    with pytest.raises(StaleWeights, match="step 1: sampler and trainer differ"):
        run(tmp_path / "run", steps=5, rollout=hf(Forgetful), lr=3e-2)


def test_an_engine_that_forgets_to_load_is_seen_where_no_group_teaches(tmp_path):
    """In the second step all groups are dead, so the update runs no model."""
    asked = []

    def first_four(example, completions):
        asked.append(example.id)
        return low_bytes(example, completions) if len(asked) <= 4 else [Score(total=0.0, parts={}) for _ in completions]

    with pytest.raises(StaleWeights, match="step 1: sampler and trainer differ"):
        run(tmp_path / "run", steps=5, rollout=hf(Forgetful), lr=3e-2, score=first_four)


def test_a_stale_head_that_the_limit_of_bfloat16_lets_pass_stops_a_run_in_float32(tmp_path):
    recipes = (load(Recipe, [f"--policy.dtype={dtype}"]) for dtype in ("bfloat16", "float32"))
    loose, strict = (loop_settings(recipe, steps=1).max_logprob_gap for recipe in recipes)
    settings = {"steps": 2, "lr": 3e-3}
    _, metrics = run(
        tmp_path / "a", rollout=hf(StaleHead, tied=False), model=tiny_model(tied=False), limit=loose, **settings
    )
    assert 0.005 < metrics[1]["policy/mismatch"] < 0.05
    with pytest.raises(StaleWeights, match=r"step 1: sampler and trainer differ by 0.0\d+ .*limit 0.005"):
        run(tmp_path / "b", rollout=hf(StaleHead, tied=False), model=tiny_model(tied=False), limit=strict, **settings)
    with pytest.raises(StaleWeights, match=r"differ by 0.029 nats .*limit 0.005"):
        check_same_policy({"mismatch": 0.029}, limit=strict, step=1)  # what the embedded model's stale head gave
    check_same_policy({"mismatch": 0.029}, limit=loose, step=1)


def test_an_engine_that_lags_stops_the_run(tmp_path):
    with pytest.raises(StaleWeights, match="weights 0, the trainer is at 1"):
        run(tmp_path / "run", steps=5, rollout=hf(Lagging))


def test_parts_keep_groups_whole_and_lose_nothing():
    batch = random_batch(prompts=(5, 9, 3), sizes=(3, 2, 2), lengths=(4, 1, 6, 2, 5, 8, 1))
    split = list(parts(batch, 2, seed=0))
    assert sorted(prompt for part in split for prompt in part.prompts) == sorted(batch.prompts)
    assert sum(len(part.group_B) for part in split) == 7
    assert [len(part.prompts) for part in split] == [2, 1]
