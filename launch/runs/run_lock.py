"""Does another process write into this run folder? A lock on a file in it, which goes when its process does."""

import errno
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from grpo.errors import UserError

LOCK = ".lock"
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # what a file system says that has none


class FolderLock:
    """On a run folder, for the rank that leads: the ranks of a run write into it together.

    It is the system's lock (flock), not the file's being there: what a killed process has left blocks nobody.
    """

    def __init__(self, folder: Path, *, tell: Callable[[str], None] = lambda text: None) -> None:
        """`tell` gets a line where the file system has no locks: the run goes on without one."""
        self._folder, self._tell = folder, tell
        self._held: int | None = None  # the descriptor that holds it
        self._told = False

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._held is not None

    def take(self, *, create: bool) -> None:
        """Hold it until `release`; UserError names the process that does already. Without `create` a folder that is
        not there, or has no lock file, is left as it is. Where the file system has no locks, nothing is held."""
        if self._held is not None:
            return
        try:
            held = os.open(self._folder / LOCK, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(held, 200).decode(errors="replace") or "another process"
            os.close(held)
            name = self._folder.name
            raise UserError(
                f"{self._folder}: {who} writes into this run; valid: wait until it has ended, or another run, "
                f"--run.name={name}-2 (make: NAME={name}-2)"
            ) from None
        except OSError as error:
            os.close(held)
            if error.errno not in NO_LOCKS:
                raise
            if not self._told:
                self._tell(
                    f"not locked   {self._folder}: {error.strerror}; nothing keeps a second run of this name out of it"
                )
            self._told = True
            return
        os.ftruncate(held, 0)
        os.write(held, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._held = held

    def release(self) -> None:
        """The file stays, empty: removing it could take the lock of a process that has just opened it."""
        if self._held is not None:
            os.ftruncate(self._held, 0)
            os.close(self._held)
            self._held = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()
