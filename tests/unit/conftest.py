"""A unit test that starts a process fails: such tests belong to integration, contract or faults."""

import multiprocessing.process
import subprocess
import sys
from typing import Any

import pytest

OURS = (sys.executable, "python", "deepspeed", "make", "bash", "git")  # libraries ask others about the machine


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen.__init__

    def checked(self: Any, command: Any, *arguments: Any, **options: Any) -> None:
        if command[0] in OURS:
            pytest.fail(f"a unit test starts a process: {command}")
        start(self, command, *arguments, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", checked)
    monkeypatch.setattr(
        multiprocessing.process.BaseProcess, "start", lambda process: pytest.fail(f"a unit test starts {process}")
    )
