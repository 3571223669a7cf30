"""Memory that was freed stays with the process: what is asked for again costs no page of the system."""

import resource
import sys

import pytest
import torch

from launch.heap import keep_freed_memory
from tests.forked import forked

MB = 1 << 20
PAGES = 64 * MB // resource.getpagesize()


def faults_of_the_last(kept, file):
    """Pages that the system gave for 64 MB that were asked for and freed before; a few times, or another free place
    might be taken than the last one's."""
    if kept:
        assert keep_freed_memory()
    for _ in range(5):
        torch.ones(64 * MB, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * MB, dtype=torch.uint8)
    file.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
@pytest.mark.parametrize("kept", [False, True])
def test_what_was_freed_is_not_asked_for_again(tmp_path, kept):
    process = forked().Process(target=faults_of_the_last, args=(kept, tmp_path / "faults"))
    process.start()
    process.join(60)
    faults = int((tmp_path / "faults").read_text())
    assert (faults < PAGES / 100) == kept, faults  # else all of them, or fewer in large pages
