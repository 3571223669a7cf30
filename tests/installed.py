"""Optional packages in tests: skipped with the reason where one is missing, but never in CI."""

import importlib.util
import os

import pytest


def need(package: str) -> None:
    """Skip the test that calls this where `package` is not installed; with CI=1 in the environment, fail it."""
    if importlib.util.find_spec(package) is None:
        fail = pytest.fail if os.environ.get("CI") == "1" else pytest.skip
        fail(f"{package} is not installed (`make setup` installs it where it can be had)")
