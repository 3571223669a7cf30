"""What policy.dtype = "auto" comes to, and how far sampler and trainer may differ in it."""

import io
import math

import pytest

from grpo.config import load
from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.policy.optimizer import AdamWConfig
from grpo.settings import PolicyConfig
from grpo.telemetry.console import Console
from grpo.telemetry.throughput import ThroughputMeter
from launch.builders.models import write_tiny_model
from launch.builders.policy import choose_dtype, choose_logprob_gap, make_policy
from launch.config.recipe import Recipe


def limit(*overrides):
    recipe = load(Recipe, list(overrides))
    return choose_logprob_gap(recipe.loss, recipe.policy, top_p=recipe.sampling.top_p)


def test_the_limit_follows_the_format_and_a_number_stays_as_it_is():
    assert (limit("--policy.dtype=float32"), limit("--policy.dtype=bfloat16")) == (0.005, 0.05)
    for dtype in ("float32", "bfloat16"):
        assert limit(f"--policy.dtype={dtype}", "--loss.max_logprob_gap=0.02") == 0.02
    cut = limit("--policy.dtype=float32", "--sampling.top_p=0.5")
    assert cut == pytest.approx(0.005 + math.log(2))


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_what_the_policy_runs_in(fast, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_dtype(PolicyConfig()) == ("bfloat16" if fast else "float32")
    assert limit() == (0.05 if fast else 0.005)
    write_tiny_model(tmp_path / "model")
    silent = Console(io.StringIO())
    folder, meter = str(tmp_path / "model"), ThroughputMeter(shared=True, dims=None, peak=None)
    more = {"console": silent, "comm": Communicator(), "meter": meter}
    policy = make_policy(PolicyConfig(), AdamWConfig(), folder, updates=1, **more)
    assert policy._backend.dtype == choose_dtype(PolicyConfig())


@pytest.mark.parametrize("wrong", ["0", "-0.1", "true", "inf", "strict"])
def test_no_other_limit(wrong):
    with pytest.raises(UserError, match=r"max_logprob_gap = .*: Input should be .*, or 'auto'"):
        limit(f"--loss.max_logprob_gap={wrong}")
