"""What was a verifier's verdict? A cache on disk, so that no pair of texts is judged twice by one model.

One SQLite file holds the verdicts of any number of models. Several processes and threads may use it at once, on a local
disk: SQLite's write-ahead log does not work over a network file system.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from grpo.errors import UserError
from rewards.judges.base import Verifier, take_counts

APPLICATION = 0x47724E4C
"""SQLite's application_id of our files, "GrNL": what tells them from the databases of others."""

WAIT = 60.0
"""Seconds to wait for another process that is writing."""

READ, WRITE = 500, 4096
"""Keys of one query; pairs that are judged between two writes, so that little is lost when a run is killed."""


class Cached:
    """A `Verifier` that asks `verifier` only what `path` does not hold, and adds what it learns.

    `model` is the identity of the model: verdicts of another one are not found. The file is made where there is none;
    a file that is somebody else's, or damaged from the start, is refused with its path (UserError) and left as it is.
    Where it fails later (a full disk, a lock that is never given back), `tell` gets one line and the run goes on
    without it. Not to be used on both sides of a fork.
    """

    def __init__(
        self, verifier: Verifier, path: Path, *, model: str, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self._verifier, self._path, self._model, self._tell = verifier, path, model, tell
        self._asked = self._hits = 0
        self._usable = True
        self._lock = threading.Lock()  # one connection and one model, whoever asks
        with self._one_line():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=WAIT, check_same_thread=False, isolation_level=None)
            if not _is_ours(self._database):
                self._database.close()
                raise UserError(f"{path}: a database, but no cache of verdicts; valid: one of ours, or a new path")

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The probability of each (premise, hypothesis); each distinct pair is looked up, or judged, once."""
        keys = [self._key(premise, hypothesis) for premise, hypothesis in pairs]
        distinct = dict(zip(keys, pairs, strict=True))
        with self._lock:
            known = self._read(list(distinct))
            self._asked += len(distinct)
            self._hits += len(known)
            missing = [key for key in distinct if key not in known]
            for start in range(0, len(missing), WRITE):
                part = missing[start : start + WRITE]
                judged = dict(zip(part, self._verifier.entails([distinct[key] for key in part]), strict=True))
                self._write(judged)
                known |= judged
        return [known[key] for key in keys]

    def take_counts(self) -> dict[str, float]:
        """The verifier's own counts and, of the distinct pairs since the last call: "asked", "hit_rate" (0 to 1)."""
        with self._lock:
            asked, hits, self._asked, self._hits = self._asked, self._hits, 0, 0
            rate = {"hit_rate": hits / asked} if asked else {}
            return {**take_counts(self._verifier), "asked": float(asked), **rate}

    def close(self) -> None:
        """Folds the log into the file; the cache is of no use afterwards."""
        self._database.close()

    def _key(self, premise: str, hypothesis: str) -> bytes:
        """128 bits of a digest; lengths go in, so that no two triples read alike."""
        digest = blake2b(digest_size=16)
        for text in (self._model, premise, hypothesis):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        known: dict[bytes, float] = {}
        with self._or_without():
            for start in range(0, len(keys) if self._usable else 0, READ):
                part = keys[start : start + READ]
                places = ",".join("?" * len(part))
                known.update(self._database.execute(f"SELECT key, p FROM verdicts WHERE key IN ({places})", part))
        return known

    def _write(self, judged: dict[bytes, float]) -> None:
        if not self._usable:
            return
        with self._or_without(), _transaction(self._database):
            # Another process may have judged the same pair meanwhile: the first verdict stays.
            self._database.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", judged.items())

    @contextmanager
    def _or_without(self) -> Iterator[None]:
        """Give the file up, and say so, where it fails in the middle of a run: it is a cache, the run is not."""
        try:
            yield
        except sqlite3.Error as error:
            self._usable = False
            self._tell(f"warning: {self._path}: {error}; verdicts are no longer kept")

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{self._path}: cannot be used as a cache of verdicts: {error}; valid: one of ours, or a new path"
            ) from error


def _is_ours(database: sqlite3.Connection) -> bool:
    """Whether the database holds verdicts, after making the table in an empty one."""
    if _application(database) == 0 and _is_empty(database):
        with _transaction(database):
            if _is_empty(database):  # still, now that no other process can write
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute("CREATE TABLE verdicts (key BLOB PRIMARY KEY, p REAL NOT NULL) WITHOUT ROWID")
    if _application(database) != APPLICATION:
        return False
    if database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("database disk image is malformed")
    # Only now that the file is known to be ours: these two change it.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")  # after a power cut the last verdicts may be gone, never wrong
    return True


def _application(database: sqlite3.Connection) -> int:
    return database.execute("PRAGMA application_id").fetchone()[0]


def _is_empty(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; the write lock is taken at once, so that a wait for it is bounded by WAIT."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
