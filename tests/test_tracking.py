"""wandb is looked at and never waited for: a run ends well without it, from the start or from the middle on."""

import os
import signal
from pathlib import Path

import pytest

from grpo.runlog import Console, RunLog
from tests.forked import forked


def open_log(folder, said):
    console = Console()
    console.line = said.append
    return RunLog(folder, name="toy", steps=3, console=console, project="test", settings={})


@pytest.mark.parametrize(
    "environment",
    [
        {"WANDB_MODE": "sometimes"},
        {"WANDB_MODE": "online", "WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
    ],
)
def test_a_wandb_that_cannot_be_reached_is_left_out(tmp_path, monkeypatch, environment):
    for name, value in {**environment, "WANDB_INIT_TIMEOUT": "1", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    said = []
    with open_log(tmp_path, said) as log, log.step(0) as record:
        record.scalars("reward", {"total": 1.0})
    assert [text.partition(": ")[0] for text in said if "wandb" in text] == ["wandb is off for this run"]
    assert log.wandb_id == ""
    assert (tmp_path / "metrics.jsonl").read_text().count('"reward/total": 1.0') == 1


def fails(log):
    with log:
        raise ZeroDivisionError


def test_a_run_that_fails_is_closed_and_failed_at_wandb_too(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log, ended = open_log(tmp_path, []), []
    run = log._tracker._run
    finish = run.finish
    monkeypatch.setattr(run, "finish", lambda exit_code: (ended.append(exit_code), finish(exit_code=exit_code)))
    with pytest.raises(ZeroDivisionError):
        fails(log)
    log.close()
    assert ended == [1]  # once


def dies_in_the_middle(folder, told):
    """Its service is killed after the first step. In a process of its own, which the service is one of for good."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    said = []
    with open_log(folder, said) as log:
        for step in range(3):
            with log.step(step) as record:
                record.scalars("reward", {"total": 1.0})
            if step == 0:
                assert log.wandb_id
                for child in children():
                    os.kill(child, signal.SIGKILL)
        log.note("result", {"x": 1})
    told.put([text for text in said if "wandb" in text])


def test_a_wandb_that_dies_in_the_middle_is_left_out_from_there(tmp_path):
    context = forked()
    told = context.SimpleQueue()
    process = context.Process(target=dies_in_the_middle, args=(tmp_path, told))
    process.start()
    assert [text.partition(": ")[0] for text in told.get()] == ["wandb is off from here on"]
    process.join()
    assert (tmp_path / "metrics.jsonl").read_text().count('"reward/total": 1.0') == 3


def children():
    threads = Path("/proc/self/task").glob("*/children")
    return {int(pid) for thread in threads for pid in thread.read_text(encoding="ascii").split()}
