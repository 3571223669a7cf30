"""What does a process hold while it trains? `train` runs the tiny model and counts from within a reward."""

import gc
import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.multiprocessing as mp

from tests.helpers.faults import ROOT, argv

PER_STEP = 2  # questions, so calls of a reward


@dataclass(frozen=True)
class Held:
    """At a moment: bytes of resident memory, open files and threads by name, and what Python's collector knows of."""

    rss: int
    files: list[str]
    threads: list[str]
    tensors: int = 0
    objects: int = 0


class Seen:
    """What `watched` has seen in this process."""

    calls = 0
    count_objects = False
    held: ClassVar[dict[int, Held]] = {}


def watched(example, completions):
    """A reward in which completions differ; the first call of every step looks around."""
    if Seen.calls % PER_STEP == 0:
        Seen.held[Seen.calls // PER_STEP] = look(count_objects=Seen.count_objects, scoring=True)
    Seen.calls += 1
    return [sum(token < 64 for token in c.token_ids) / len(c.token_ids) for c in completions]


def look(*, count_objects: bool, scoring: bool = False) -> Held:
    """Without the threads that write a checkpoint, which end by themselves at no known step, and tqdm's own, which a
    progress bar of transformers starts once for the whole process. `scoring`: also without those that score this step,
    of which a first may be done before a second would start, and the logs, which that of a checkpoint sees to the disk.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    passing = ("tqdm_monitor", "checkpoint ", *(["score_"] if scoring else []))
    threads = sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith(passing))
    files = [path for path in open_files() if not (scoring and path.endswith(".jsonl"))]
    held = {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "files": files, "threads": threads}
    if count_objects:
        gc.collect()
        known = gc.get_objects()
        tensors = sum(issubclass(type(each), torch.Tensor) for each in known)
        held |= {"objects": len(known), "tensors": tensors}
    return Held(**held)


def open_files() -> list[str]:
    """What the file descriptors stand for; the files of a checkpoint that is being written are left out."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the one that listed them
            continue
    return sorted(path for path in found if "/checkpoints/" not in f"{path}/")


def train(home: Path, steps: int, *arguments: str, count_objects: bool = False) -> dict[str, Held]:
    """A whole run in a process of its own: what it held at every step, "before" it and "after"."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.preload", "tests.helpers.leaks"])
    wanted = ("--checkpoint.every=10", '--reward.weights={"tests.helpers.leaks:watched"=4.0}', f"--run.steps={steps}")
    process = context.Process(target=_child, args=(argv(home, *wanted, *arguments), home, count_objects))
    process.start()
    process.join()
    assert process.exitcode == 0, (home / "said").read_text()
    return {name: Held(**held) for name, held in json.loads((home / "held").read_text()).items()}


def _child(arguments: list[str], home: Path, count_objects: bool) -> None:
    sys.stdout = sys.stderr = (home / "said").open("w", buffering=1)
    os.chdir(ROOT)
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    from launch.train import main

    Seen.count_objects = count_objects
    before = look(count_objects=count_objects)
    code = main(arguments)
    held = {"before": before, **Seen.held, "after": look(count_objects=count_objects)}
    (home / "held").write_text(json.dumps({name: asdict(each) for name, each in held.items()}))
    sys.exit(code)
