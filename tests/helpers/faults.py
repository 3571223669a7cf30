"""Whole runs of the tiny model in processes that are made to fail: `train(...)`, a reward that does it from within, and
what a run leaves.

A child is forked off a process that has imported everything, so a run takes a second or two.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grpo.checkpointing.store import latest_step
from tests.helpers.forked import ROOT, forked, wait_for, write_output_to
from tests.helpers.kills import Kill, Places, Seen

TINY = ("configs/stage1.toml", "configs/models/tiny.toml")
SMALL = (
    "--run.steps=4",
    "--checkpoint.every=1",
    "--held_out.questions=2",
    "--held_out.every=2",
    "--sft.steps=0",
    "--optim.lr=0.01",
    "--sampling.max_tokens=6",
    '--reward.weights={"tests.helpers.faults:low_bytes"=4.0}',
)
TIMINGS = ("time/", "memory/", "count/tokens_per_s", "perf/mfu", "perf/tokens_per_second", "perf/equivalent_per_second")


def low_bytes(example, completions):
    """The share of bytes below 64: something that random completions differ in, so that every step teaches; and a
    little of what Python and numpy draw, which only goes on as it was where their states do. Where the environment says
    so, the run gets a signal here: FAULT=SIGKILL:5 in the fifth call. FAULT=full:5: from there on its disk is full."""
    Calls.count += 1
    name, _, number = os.environ.get("FAULT", ":0").partition(":")
    if name == "full" and Calls.count >= int(number):
        fill(Path(os.environ["DISK"]))
    elif Calls.count == int(number):
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.05)  # a handler runs in the main thread, and this may be another
    drawn = 0.01 * (random.random() + float(np.random.random()))
    return [sum(token < 64 for token in c.token_ids) / len(c.token_ids) + drawn * n for n, c in enumerate(completions)]


class Calls:
    """Of `low_bytes` in this process."""

    count = 0


@dataclass(frozen=True)
class Ended:
    """Exit status (negative: by that signal), what was printed, what a process that was not killed came to, and the
    seconds until it trained (None: it did not)."""

    code: int
    said: str
    seen: Seen
    began: float | None


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


def train(home: Path, *arguments: str, fault: str = "", kill: Kill | None = None) -> Ended:
    """`launch/train.py` on the tiny model, below `home`, killed where `kill` says."""
    said, seen, started = home / "said", home / "seen", time.monotonic()
    for file in (seen, home / "began"):
        file.unlink(missing_ok=True)
    process = forked().Process(target=_child, args=(argv(home, *arguments), home, fault, kill))
    process.start()
    code = wait_for(process)
    assert code is not None, said.read_text(encoding="utf-8")
    counts = json.loads(seen.read_text()) if seen.exists() else {}
    return Ended(code, said.read_text(encoding="utf-8"), counts, seconds_until(home, started))


def seconds_until(home: Path, started: float) -> float | None:
    """From `started` until a process trained in which `armed` was called; None: it did not."""
    began = home / "began"
    return float(began.read_text()) - started if began.exists() else None


def armed(home: Path, *, rank: int = 0, kill: Kill | None = None) -> Places:
    """In a process that is about to train below `home`. Its random states are those of every such process, and the last
    checkpoint of a run that is finished, which removes them all, is kept as `last`."""
    random.seed(rank)
    np.random.seed(rank)
    os.environ |= {"XDG_CACHE_HOME": str(home / "cache"), "DISK": str(home / "disk")}
    from grpo.checkpointing import store
    from launch.runs import run

    remove_all, places = store.remove_all, Places(kill, began=home / "began" if rank == 0 else None)

    def keep_last(folder: Path) -> None:
        places.looking = False  # a run by itself does not do this
        for path in sorted(folder.glob("step-*"))[-1:]:
            shutil.copytree(path, folder.parents[1] / "last", dirs_exist_ok=True)
        places.looking = True
        remove_all(folder)

    store.remove_all = run.remove_all = keep_last
    return places


def _child(arguments: list[str], home: Path, fault: str, kill: Kill | None) -> None:
    write_output_to(home / "said")
    os.chdir(ROOT)
    os.environ["FAULT"] = fault or ":0"
    places = armed(home, kill=kill)
    from launch.train import main

    code = main(arguments)
    (home / "seen").write_text(json.dumps(places.seen))
    sys.exit(code)


def left(home: Path) -> dict[str, Any]:
    """What a finished run is judged by: the weights, the files, but for what was measured by a clock, and its last
    checkpoint, in which are the optimizer, the curriculum and the random states of every rank."""
    run, last = home / "run", home / "last"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    files = {str(file.relative_to(last)): file for file in sorted(last.rglob("*")) if file.is_file()}
    state = json.loads(files.pop("state.json").read_text()) if files else {"parts": {"logs": {"bytes": 0}}}
    del state["parts"]["logs"]["bytes"]  # the times in them have more digits, or fewer
    files.pop("manifest.json", None)  # it has the hash of that state
    return {
        "weights": (run / "model" / "model.safetensors").read_bytes(),
        "metrics": [{k: v for k, v in row.items() if not k.startswith(TIMINGS)} for row in rows],
        **{name: (run / name).read_text() for name in ("rollouts.jsonl", "held_out.jsonl", "notes.jsonl")},
        "folders": sorted(path.name for path in run.iterdir() if path.is_dir() and not path.name.startswith(".")),
        "last": {name: file.read_bytes() for name, file in files.items()},
        "state": state,
    }


def checkpoints(home: Path) -> list[str]:
    """The names of those in the run below `home`."""
    return sorted(path.name for path in (home / "run" / "checkpoints").glob("step-*"))


def steps_to_make_again(home: Path) -> int:
    """Of a run that was cut off: the steps that were made and are in no checkpoint, beside the one under way."""
    metrics = home / "run" / "metrics.jsonl"
    made = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    return made - latest_step(home / "run" / "checkpoints")


def what_is_left(home: Path, code: int, said: str) -> dict[str, Any]:
    """`left` by a run that was cut off and begun again, which ended so. One that was cut off when its model was whole
    is finished, and refused as any finished one is."""
    finished = code == 2 and "not overwritten" in said and (home / "run" / "model").is_dir()
    assert code == 0 or finished, said
    return left(home)


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Another program's file, which grows until only so many bytes are left on the disk of this folder."""
    other = folder / "of another program"
    with other.open("ab", buffering=0) as file:
        for block in (1 << 20, 1):
            with suppress(OSError):  # no space left on device
                while True:
                    file.write(bytes(block))
        file.truncate(file.tell() - leave)
    return other
