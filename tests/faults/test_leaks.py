"""A run holds as much at its end as after its first steps: memory, files, threads, tensors."""

import os
from statistics import median

import pytest

from tests.helpers.leaks import train

LONG = int(os.environ.get("STEPS", "0"))  # `make test-faults` trains so many


def test_thirty_steps_leave_no_file_thread_or_tensor_behind(tmp_path):
    """With three checkpoints written beside the steps, a reward of the user's own and held-out measurements."""
    held = train(tmp_path, 30, "--held_out.every=5", count_objects=True)
    early, late = held["18"], held["28"]  # as far from the checkpoint before, and from the measurement
    assert (late.files, late.threads, late.tensors) == (early.files, early.threads, early.tensors)
    assert held["28"].tensors > 20  # they are counted
    assert (held["after"].files, held["after"].threads) == (held["before"].files, held["before"].threads)


@pytest.mark.skipif(not LONG, reason="`make test-faults` trains 500 steps")
def test_memory_is_flat(tmp_path):
    held = train(tmp_path, LONG, "--held_out.every=50")
    rss = [held[str(step)].rss for step in range(LONG)]
    window = LONG // 20
    middle, end = median(rss[LONG // 2 : LONG // 2 + window]), median(rss[-window:])
    print(f"{LONG} steps: {middle / 1e6:.1f} MB in the middle, {end / 1e6:.1f} MB at the end")
    assert end < 1.01 * middle
    for step in range(10, LONG, 10):
        assert (held[str(step)].files, held[str(step)].threads) == (held["10"].files, held["10"].threads), step
