"""A directory that exists complete or not at all."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo.checkpointing.store import fsync

LEFTOVER_SECONDS = 86_400.0  # age at which a temporary directory is taken for that of a killed process


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """An empty directory to fill, which becomes `path` at the end of the block; removed where the block raises.

    Where another process has created `path` meanwhile, the other directory stays and this one is dropped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.making-*"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.making-") as temporary:
        work = Path(temporary) / path.name
        work.mkdir(mode=0o700)
        yield work
        for file in work.rglob("*"):
            fsync(file)
        try:
            work.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        fsync(path.parent)
