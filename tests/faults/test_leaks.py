"""A run holds as much at its end as after its first steps: memory, files, threads, tensors.

A reward of the run counts them from within.
"""

import gc
import json
import os
import sys
import threading
from pathlib import Path
from statistics import median

import pytest
import torch

from tests.helpers.faults import ROOT, argv
from tests.helpers.forked import forked, wait_for, write_output_to

LONG = int(os.environ.get("STEPS", "0"))  # `make test-faults` trains so many
PER_STEP = 2  # questions, so calls of the reward
HELD = {}  # of this process: step -> what it held


def watched(example, completions):
    """A reward in which completions differ; the first call of every step looks around."""
    HELD["calls"] = calls = HELD.get("calls", -1) + 1
    if calls % PER_STEP == 0:
        HELD[calls // PER_STEP] = look(scoring=True)
    return [sum(token < 64 for token in c.token_ids) / len(c.token_ids) for c in completions]


def look(*, scoring=False):
    """What this process holds: bytes of resident memory, open files and threads by name, and tensors.

    Left out are the writer of a checkpoint, which ends at no known step, and tqdm's thread, which transformers starts
    once. `scoring` leaves out those that score this step as well, and the logs, which a writer sees to the disk.
    """
    passing = ("tqdm_monitor", "checkpoint ", *(["score_"] if scoring else []))
    threads = sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith(passing))
    files = [path for path in open_files() if not (scoring and path.endswith(".jsonl"))]
    gc.collect()
    tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "files": files, "threads": threads, "tensors": tensors}


def open_files():
    """What the file descriptors stand for; the files of a checkpoint that is being written are left out."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the one that listed them
            continue
    return sorted(path for path in found if "/checkpoints/" not in f"{path}/")


def train(home, steps, *arguments):
    """What a whole run in a process of its own held at every step, "before" it and "after"."""
    wanted = (f"--run.steps={steps}", "--checkpoint.every=10", f'--reward.weights={{"{__name__}:watched"=4.0}}')
    process = forked().Process(target=child, args=(argv(home, *wanted, *arguments), home))
    process.start()
    assert wait_for(process) == 0, (home / "said").read_text()
    return json.loads((home / "held").read_text())


def child(arguments, home):
    write_output_to(home / "said")
    os.chdir(ROOT)
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    from launch.train import main

    HELD["before"] = look()
    code = main(arguments)
    HELD["after"] = look()
    (home / "held").write_text(json.dumps(HELD))
    sys.exit(code)


def same(one, other, *what):
    assert [one[name] for name in what] == [other[name] for name in what]


def test_thirty_steps_leave_no_file_thread_or_tensor_behind(tmp_path):
    """With three checkpoints written beside the steps, a reward of the user's own and held-out measurements."""
    held = train(tmp_path, 30, "--held_out.every=5")
    same(held["18"], held["28"], "files", "threads", "tensors")  # as far from the checkpoint and the measurement
    assert held["28"]["tensors"] > 20  # they are counted
    same(held["before"], held["after"], "files", "threads")


@pytest.mark.skipif(not LONG, reason="`make test-faults` trains 500 steps")
def test_memory_is_flat(tmp_path):
    held = train(tmp_path, LONG, "--held_out.every=50")
    rss = [held[str(step)]["rss"] for step in range(LONG)]
    window = LONG // 20
    middle, end = median(rss[LONG // 2 : LONG // 2 + window]), median(rss[-window:])
    print(f"{LONG} steps: {middle / 1e6:.1f} MB in the middle, {end / 1e6:.1f} MB at the end")
    assert end < 1.01 * middle
    for step in range(10, LONG, 10):
        same(held[str(step)], held["10"], "files", "threads")
