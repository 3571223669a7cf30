"""Tokens, operations and shares, against numbers worked by hand."""

import pytest
import torch

from benchmarks.update import LOSS, update_flops, weighed
from benchmarks.workload import alternating, find_model_config, make_model, parse_workload, random_batch
from grpo.batch import Batch
from grpo.errors import UserError
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.telemetry.throughput import (
    ThroughputMeter,
    TokenCounts,
    batch_counts,
    group_counts,
    matmul_peak,
    padding,
    sharing,
    useful_flops,
)
from launch.config.model_size import ModelSize, count
from tests.helpers import toy

SIZES = {"layers": 2, "hidden": 4, "heads": 2, "kv_heads": 1, "head_dim": 3, "intermediate": 5, "vocabulary": 7}
SMALL = ModelSize(parameters=340, tied=False, **SIZES)
# A layer: q, k, v, o 2 x 4 x (6 + 3) = 72; gate, up, down 3 x 4 x 5 = 60; two norms 8: 140. Two of them, the embedding
# and the head of 28 each, the last norm 4: 340 parameters.


def test_a_prompt_of_two_with_completions_of_three_and_one():
    # Read are the prompt and two tokens of the first completion. Pairs: 1 + 2 in the prompt; 3 and 4 for the two.
    assert group_counts(2, [3, 1]) == TokenCounts(distinct=6, equivalent=8, learnt=4, completions=2, pairs=3 + 3 + 4)
    assert group_counts(2, [3, 1]).processed == 4
    assert group_counts(2, [3, 1]).processed_unshared == 6
    both = group_counts(2, [3, 1]) + group_counts(1, [1])
    assert both == TokenCounts(distinct=8, equivalent=10, learnt=5, completions=3, pairs=11)


def test_a_batch_is_counted_from_its_rows():
    batch = toy.random_batch(prompts=(5, 9), sizes=(3, 2), lengths=(4, 1, 6, 2, 5))
    assert batch_counts(batch) == group_counts(5, [4, 1, 6]) + group_counts(9, [2, 5])
    some = batch.rows([0, 3])  # what was left out costs nothing
    assert batch_counts(some) == group_counts(5, [4]) + group_counts(9, [2])
    assert batch_counts(batch.rows([])) == TokenCounts()


def test_operations_of_an_update_by_hand():
    work = group_counts(2, [3, 1])  # 6 distinct, 4 read, 4 learnt, 10 pairs
    attention = 4 * 2 * 6 * 10  # two products of a multiplication and an addition; 2 layers, width 2 x 3, 10 pairs
    assert update_flops(SMALL, work) == 3 * (2 * (340 - 28) * 6 + attention)  # the input embedding is looked up
    assert useful_flops(SMALL, work) == 3 * (2 * (340 - 56) * 4 + 2 * 28 * 4 + attention)


def test_a_tied_embedding_is_the_head():
    tied = ModelSize(parameters=312, tied=True, **SIZES)
    assert update_flops(tied, group_counts(2, [3, 1])) == update_flops(SMALL, group_counts(2, [3, 1]))
    assert useful_flops(tied, group_counts(2, [3, 1])) == useful_flops(SMALL, group_counts(2, [3, 1]))


def test_the_default_shape_has_4_6_times_fewer_distinct_tokens():
    asked = parse_workload("4x8x400+48")
    assert (asked.work.distinct, asked.work.equivalent, asked.group_tokens) == (3136, 14336, 784)
    assert asked.token_ratio == pytest.approx(14336 / 3136)
    assert str(asked) == "4x8x400+48"


@pytest.mark.parametrize("text", ["4x8x400", "4x1x400+48", "0x8x400+48", "4x8x400+0", "4x8x-1+48"])
def test_another_shape_is_refused_in_one_line(text):
    with pytest.raises(UserError, match="expected PROMPTSxGROUPxPROMPT"):
        parse_workload(text)


def test_shares_of_positions_by_hand():
    work = group_counts(6, [3, 3])  # 12 distinct, of which 10 are read; 18 equivalent, 16 of them read
    assert sharing(work, 10) == 1.6
    assert padding(work, 10, shared=True) == 0
    assert padding(work, 12, shared=True) == pytest.approx(1 / 6)
    assert (sharing(work, 16), padding(work, 16, shared=False)) == (1, 0)
    assert padding(work, 20, shared=False) == pytest.approx(0.2)


def one_update(layout, meter, batch, budget=1000):
    model = toy.tiny_model()
    meter.counter.attach(model)
    policy = torch_policy(
        model,
        optim=AdamWConfig(),
        total_updates=1,
        token_budget=budget,
        layout=layout,
        dtype="float32",
        temperature=1.0,
    )
    policy.logprobs(batch)  # runs the model too, but is no training
    policy.update(weighed(batch), LOSS)
    return batch_counts(batch)


def equal_batch():
    """Two prompts of 10, each with four completions of 5."""
    return random_batch(parse_workload("2x4x10+5"), vocabulary=256, seed=0)


@pytest.mark.parametrize(("layout", "ran"), [("shared", 2 * (10 + 4 * 4)), ("padded", 8 * (10 + 4))])
def test_the_positions_of_an_update_are_counted_where_they_run(layout, ran):
    """Only those of an update, once, and without MFU where the machine's speed is not known."""
    meter = ThroughputMeter(shared=layout == "shared", dims=SMALL, peak=1000.0)
    work = one_update(layout, meter, equal_batch())
    values = meter.measure(work, 2.0)
    assert values["perf/sharing"] == pytest.approx(112 / ran)
    assert values["perf/padding"] == 0
    assert values["perf/mfu"] == pytest.approx(useful_flops(SMALL, work) / 2.0 / 1000.0)
    assert meter.measure(work, 2.0) == {}  # nothing has run since
    slow = ThroughputMeter(shared=True, dims=SMALL, peak=None)
    assert "perf/mfu" not in slow.measure(one_update(layout, slow, equal_batch()), 1.0)


def test_padding_of_unequal_rows_shows():
    batch = toy.random_batch(prompts=(5, 5), sizes=(2, 2), lengths=(4, 4, 9, 9))
    meter = ThroughputMeter(shared=False, dims=None, peak=None)
    work = one_update("padded", meter, batch)
    ran, _ = meter.counter.take()
    assert work.processed_unshared == 4 * 5 + 3 + 3 + 8 + 8
    assert padding(work, ran, shared=False) == pytest.approx(1 - 42 / ran)
    assert ran == 4 * 13  # one micro-batch, as wide as its longest row


def test_the_peak_is_operations_by_the_second():
    before = torch.get_rng_state()
    assert matmul_peak(torch.device("cpu"), torch.float32, products=((64, 64, 64),)) > 1e6
    assert torch.equal(torch.get_rng_state(), before)


def test_named_models_are_built_as_they_are_counted():
    config = find_model_config("tiny")
    model = make_model(config, positions=64)
    assert sum(parameter.numel() for parameter in model.parameters()) == count(config, "tiny").parameters == 45248
    assert count(find_model_config("qwen3-0.6b"), "").parameters == 596_049_920
    assert count(find_model_config("qwen3-1.7b"), "").parameters == 1_720_574_976
    assert find_model_config("qwen3-8b", layers=4)["num_hidden_layers"] == 4
    with pytest.raises(UserError, match=r"qwen3-0\.6b, qwen3-1\.7b"):
        find_model_config("qwen9")
    with pytest.raises(UserError, match="valid: 1 to 36"):
        find_model_config("qwen3-8b", layers=37)


def test_no_advantage_of_a_benchmark_is_zero():
    assert alternating(5).tolist() == [1.0, -1.0, 1.0, -1.0, 1.0]
    batch: Batch = equal_batch()
    assert len(weighed(batch).group_B) == 8
