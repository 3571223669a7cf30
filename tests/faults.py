"""Whole runs of the tiny model in processes that are made to fail: `train(...)`, and rewards that do it from within.

A child is forked off a process that has imported everything, so a run takes a second or two.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.forked import ROOT, forked, wait_for

TINY = ("configs/stage1.toml", "configs/models/tiny.toml")
SMALL = (
    "--run.steps=4",
    "--checkpoint.every=1",
    "--eval.questions=2",
    "--eval.every=2",
    "--warmup.steps=0",
    "--optim.lr=0.01",
    "--sampling.max_tokens=6",
    '--reward.weights={"tests.faults:low_bytes"=4.0}',
)
# What touches a run's files, as Python's audit hooks name it (os.replace is an os.rename, Path.open an open).
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")


def low_bytes(example, completions):
    """The share of bytes below 64: something that random completions differ in, so that every step teaches. Where the
    environment says so, the run gets a signal here: FAULT=SIGKILL:5 in the fifth call."""
    Calls.count += 1
    name, _, number = os.environ.get("FAULT", ":0").partition(":")
    if Calls.count == int(number):
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.05)  # a handler runs in the main thread, and this may be another
    return [sum(token < 64 for token in c.token_ids) / len(c.token_ids) for c in completions]


class Calls:
    """Of `low_bytes` in this process."""

    count = 0


@dataclass(frozen=True)
class Ended:
    """Exit status (negative: by that signal), what was printed, and how often the run's files were touched."""

    code: int
    said: str
    touched: int


def argv(home: Path, *arguments: str) -> list[str]:
    """Of `launch/train.py`, for a run in `home / "run"`."""
    data = home / "data.jsonl"  # a few questions, since the world's thousand take longer than the run
    if not data.exists():
        data.write_text("".join(json.dumps(_question(number)) + "\n" for number in range(20)), encoding="utf-8")
    recipes = [str(ROOT / name) for name in TINY]
    return [*recipes, *SMALL, f"--data.source={data}", f"--run.folder={home}", "--run.name=run", *arguments]


def _question(number: int) -> dict[str, object]:
    docs = [{"title": "T", "text": f"It is number {number}."}]
    return {"question": f"What number is {number}?", "answers": [[f"number {number}"]], "docs": docs}


def train(home: Path, *arguments: str, fault: str = "", kill_at: int = 0) -> Ended:
    """`launch/train.py` on the tiny model, below `home`; kill -9 at the `kill_at`-th time that it touches its files."""
    said, touched = home / "said", home / "touched"
    touched.unlink(missing_ok=True)
    process = forked().Process(target=_child, args=(argv(home, *arguments), said, touched, fault, kill_at))
    process.start()
    code = wait_for(process)
    assert code is not None, said.read_text(encoding="utf-8")
    count = int(touched.read_text()) if touched.exists() else 0
    return Ended(code, said.read_text(encoding="utf-8"), count)


def _child(arguments, said, touched, fault, kill_at):
    sys.stdout = sys.stderr = said.open("w", buffering=1, encoding="utf-8")
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    os.chdir(ROOT)
    os.environ |= {"FAULT": fault or ":0", "XDG_CACHE_HOME": str(said.parent / "cache")}
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event in EVENTS and any("/run/" in str(a) or str(a).endswith("/run") for a in arguments[:2]):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    from launch.train import main

    code = main(arguments)
    touched.write_text(str(seen))
    sys.exit(code)
