"""The lock of a run folder: one process at a time writes into it."""

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

from grpo.errors import UserError

LOCK = ".lock"
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # errors of a file system without locks

log = logging.getLogger(__name__)


class RunLock:
    """An flock on `FOLDER/.lock`. The system drops it with the process, so a killed run blocks nobody."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self, *, create: bool, wait: bool = False) -> None:
        """Take the lock until `release`. Without `create`, a folder without a lock file is left as it is.

        Where another process holds the lock: wait for its end, or UserError with its name. On a file system without
        locks nothing is taken, and a warning says so.
        """
        if self._descriptor is not None:
            return
        try:
            descriptor = os.open(self._folder / LOCK, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError:
            return
        try:
            self._flock(descriptor, wait)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in NO_LOCKS:
                raise
            log.warning("%s: %s; a second run of this name would not be noticed", self._folder, error.strerror)
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Drop the lock. The empty file stays: removing it could break the lock of a process that just opened it."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def _flock(self, descriptor: int, wait: bool) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            if not wait:
                name = self._folder.name
                os.close(descriptor)
                raise UserError(
                    f"{self._folder}: {owner} writes into this run; valid: wait until it has ended, or another run, "
                    f"--run.name={name}-2 (make: NAME={name}-2)"
                ) from None
            log.warning("%s: waiting for %s, which writes into it", self._folder, owner)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
