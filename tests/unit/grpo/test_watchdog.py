"""A phase that hangs is reported with its stack and ends the run in the end, and one that takes its time does not."""

import re
import threading
import time

import pytest

from grpo.distributed.watchdog import FIRST_LIMIT, Watchdog


@pytest.fixture
def out(tmp_path):
    with (tmp_path / "said").open("w+") as file:
        yield file


def stuck_in_here(release):
    release.wait(60)


def test_a_phase_far_over_its_median_is_reported_with_its_stack(tmp_path, out):
    release = threading.Event()
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


def test_when_a_phase_is_reported(tmp_path, out):
    dog = Watchdog(rank=0, factor=20.0, least=5.0, out=out)
    assert dog.limit("update") == FIRST_LIMIT  # not known yet
    dog._durations["update"].extend([1.0, 2.0, 3.0])
    assert dog.limit("update") == 40.0
    dog._durations["sync"].extend([0.1] * 3)
    assert dog.limit("sync") == 5.0
    with dog.phase("update"):
        start = time.monotonic()
        told = []
        for seconds in (30, 39, 41, 60, 79, 83, 100, 170):
            dog.check(start + seconds)
            told.append((tmp_path / "said").read_text().count("update lasts"))
    assert told == [0, 0, 1, 1, 1, 2, 2, 3]
    dog.check(start + 1000)  # no phase, nothing to report
    assert (tmp_path / "said").read_text().count("lasts") == 3


def test_a_phase_within_another_is_not_the_outer_ones_time(tmp_path, out):
    """Measuring held-out questions takes long, in a few of the steps: the others of that phase are still not late."""
    dog = Watchdog(rank=0, factor=10.0, least=5.0, out=out)
    now = [100.0]
    dog._clock = lambda: now[0]
    for inner in (0.0, 0.0, 500.0):
        with dog.phase("watch"):
            now[0] += 1.0
            with dog.phase("held_out"):
                now[0] += inner
            now[0] += 1.0
            assert dog.check(now[0]) == ""
    assert list(dog._durations["watch"]) == [2.0, 2.0, 2.0]
    assert list(dog._durations["held_out"]) == [0.0, 0.0, 500.0]
    with dog.phase("watch"), dog.phase("save"):
        now[0] += 21.0  # a save that is not known yet, in a phase that would be late
        assert dog.check(now[0]) == ""
    assert (tmp_path / "said").read_text() == ""


def test_a_phase_that_hangs_is_the_end_after_its_report(out):
    dog = Watchdog(rank=1, factor=20.0, least=5.0, hang=100.0, out=out)
    dog._durations["score"].extend([1.0] * 3)
    with dog.phase("score"):
        start = time.monotonic()
        ends = [dog.check(start + seconds) for seconds in (19, 21, 119, 121)]
    assert ends[:3] == ["", "", ""]
    assert ends[3].startswith("score lasts 12")  # 121 s, less what this test has taken
    assert ends[3].endswith(" s, usually 1 s")


def test_the_end_is_called_once_by_the_thread_that_looks(out):
    told, called = [], threading.Event()

    def end(text):
        told.append((text.partition(" lasts")[0], threading.current_thread().name))
        called.set()

    dog = Watchdog(rank=0, factor=1.0, least=0.01, hang=0.01, out=out)
    dog._durations["score"].extend([0.0] * 3)
    with dog.watching(every=0.01, on_hang=end), dog.phase("score"):
        assert called.wait(60)
        time.sleep(0.1)
    assert told == [("score", "watchdog")]


def test_the_time_of_a_suspended_machine_is_not_counted(out, monkeypatch):
    dog = Watchdog(rank=0, factor=1.0, least=5.0, hang=5.0, out=out)
    dog._durations["score"].extend([0.0] * 3)
    ended, slept = [], threading.Event()
    clock = [time.monotonic(), 0]

    def monotonic():
        return clock[0] + clock[1]

    monkeypatch.setattr("grpo.distributed.watchdog.time.monotonic", monotonic)
    with dog.phase("score"), dog.watching(every=0.01, on_hang=ended.append):
        slept.wait(0.1)
        clock[1] = 3600
        slept.wait(0.1)
    assert dog._paused == pytest.approx(3600)
    assert ended == []
