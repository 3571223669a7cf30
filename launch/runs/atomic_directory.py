"""A folder that is there whole or not at all: how is it made, and who removes what a killed process has left of one?

It is made beside its place, under a hidden name, and renamed. Whoever makes it holds a lock on it, which ends with the
process however that ends: so what a dead process has left is told from what a living one is writing.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, LOCK = ".making-", "lock"


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """An empty folder to fill and to rename to `folder`; what has not been renamed when the block ends is gone.

    What killed processes have left there is removed first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    holder = Path(tempfile.mkdtemp(dir=folder.parent, prefix=PREFIX))
    with _locked(holder):
        work = holder / folder.name
        try:
            work.mkdir(mode=0o700)  # as every run folder
            yield work
        finally:
            shutil.rmtree(holder)


def remove_leftovers(parent: Path) -> None:
    """Remove what `beside` has left in `parent`, but for what a living process is writing."""
    for lock in parent.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), lock.open("a") as file:  # another process has removed it, or holds it, or cannot lock
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)


@contextmanager
def _locked(holder: Path) -> Iterator[None]:
    """The lock is there under its name only while it is held, or where the holder has died. Where the file system has
    no locks it is never there, and nothing is ever taken for a leftover."""
    with (holder / f"{LOCK}.part").open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(file.name, holder / LOCK)
        yield
