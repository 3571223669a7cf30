"""wandb is looked at and never waited for: a run ends well without it, from the start or from the middle on."""

import os
import signal
from pathlib import Path

import pytest

from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger
from tests.helpers.forked import forked, wait_for


def open_log(folder, said):
    console = Console()
    console.line = said.append
    return RunLogger(folder, name="toy", steps=3, console=console, project="test", settings={})


@pytest.mark.parametrize(
    "environment",
    [
        {"WANDB_MODE": "sometimes"},
        pytest.param(
            {"WANDB_MODE": "online", "WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            marks=pytest.mark.skipif(
                "KILLS" not in os.environ, reason="wandb tries for 100 s: `make test-faults` waits"
            ),
        ),
    ],
)
def test_a_wandb_that_cannot_be_reached_is_left_out(tmp_path, monkeypatch, environment, fault):
    fault("wandb out of reach", steps=0)
    for name, value in {**environment, "WANDB_INIT_TIMEOUT": "1", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    said = []
    with open_log(tmp_path, said) as log, log.step(0) as record:
        record.scalars("reward", {"total": 1.0})
    assert [text.partition(": ")[0] for text in said if "wandb" in text] == ["wandb is off for this run"]
    assert log.wandb_id == ""
    assert (tmp_path / "metrics.jsonl").read_text().count('"reward/total": 1.0') == 1


class Noted:
    """Stands for wandb's run: what it was finished with."""

    def __init__(self):
        self.codes = []

    def finish(self, exit_code):
        self.codes.append(exit_code)


def fails(log):
    with log:
        raise ZeroDivisionError


def test_a_run_is_closed_once_however_it_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("WANDB_API_KEY", "")
    well, badly = Noted(), Noted()
    log = open_log(tmp_path, [])
    log._wandb._run = badly
    with pytest.raises(ZeroDivisionError):
        fails(log)
    log.close()
    with open_log(tmp_path, []) as log:
        log._wandb._run = well
    assert (badly.codes, well.codes) == ([1], [0])


def dies_in_the_middle(folder, told):
    """What a run says whose service is killed after the first step. In a process of its own: wandb keeps to the service
    that it has started first."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_INIT_TIMEOUT": "3000"}
    said = []
    with open_log(folder, said) as log:
        for step in range(3):
            with log.step(step) as record:
                record.scalars("reward", {"total": 1.0})
            if step == 0:
                assert log.wandb_id
                for child in children():
                    os.kill(child, signal.SIGKILL)
        log.log_result("result", {"x": 1})
    told.put([text for text in said if "wandb" in text])


def test_a_wandb_that_dies_in_the_middle_is_left_out_from_there(tmp_path, fault):
    fault("wandb's service is killed", steps=0)
    context = forked()
    told = context.SimpleQueue()
    process = context.Process(target=dies_in_the_middle, args=(tmp_path, told))
    process.start()
    assert wait_for(process) == 0
    assert [text.partition(": ")[0] for text in told.get()] == ["wandb is off from here on"]
    assert (tmp_path / "metrics.jsonl").read_text().count('"reward/total": 1.0') == 3


def children():
    threads = Path("/proc/self/task").glob("*/children")
    return {int(pid) for thread in threads for pid in thread.read_text(encoding="ascii").split()}
