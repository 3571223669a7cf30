"""A phase that hangs is reported with its stack, and one that takes its time is not."""

import re
import threading
import time

from grpo.watchdog import FIRST, Watchdog


def stuck_in_here(release):
    release.wait(60)


def test_a_phase_far_over_its_median_is_reported_with_its_stack(tmp_path):
    release = threading.Event()
    with (tmp_path / "said").open("w+") as out:
        dog = Watchdog(rank=3, factor=10.0, least=0.2, out=out)
        for _ in range(3):
            with dog.phase("score"):
                time.sleep(0.001)
        until = time.monotonic() + 60
        with dog.watching(every=0.05), dog.phase("step"), dog.phase("score"):
            waiting = threading.Thread(target=stuck_in_here, args=(release,))
            waiting.start()
            while not (tmp_path / "said").stat().st_size and time.monotonic() < until:
                time.sleep(0.02)
            release.set()
            waiting.join()
    said = (tmp_path / "said").read_text()
    assert re.match(r"rank 3: score lasts \d+ s, usually \d+ s; where it is:\n", said), said
    assert "in stuck_in_here" in said


def test_when_a_phase_is_reported(tmp_path):
    with (tmp_path / "said").open("w+") as out:
        dog = Watchdog(rank=0, factor=20.0, least=5.0, out=out)
        assert dog.limit("update") == FIRST  # not known yet
        dog._seen["update"].extend([1.0, 2.0, 3.0])
        assert dog.limit("update") == 40.0
        dog._seen["sync"].extend([0.1] * 3)
        assert dog.limit("sync") == 5.0
        with dog.phase("update"):
            start = time.monotonic()
            told = []
            for seconds in (30, 39, 41, 60, 79, 83, 100, 170):
                dog.look(start + seconds)
                told.append((tmp_path / "said").read_text().count("update lasts"))
        assert told == [0, 0, 1, 1, 1, 2, 2, 3]
        dog.look(start + 1000)  # no phase, nothing to report
        assert (tmp_path / "said").read_text().count("lasts") == 3
