"""A judge's verdicts on disk, so that one model judges no pair of texts twice.

One SQLite file holds the verdicts of any number of models. Several processes and threads may use the file at once.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

from grpo.errors import UserError
from rewards.judges.base import Judge, Pair, pop_metrics

LOCK_SECONDS = 60.0  # how long to wait for another process that is writing
READ_BATCH = 500  # keys of one query
WRITE_BATCH = 4096  # pairs judged between two writes, so that a killed run loses few verdicts


class CachedJudge:
    """A `Judge` that asks `judge` only what the file does not hold, and adds the new verdicts.

    `model` identifies the model; verdicts of other models are not found. UserError if `path` cannot be such a file. If
    the file fails later (a full disk, a lock that is never released), `tell` gets one line and the run continues
    without it.
    """

    def __init__(
        self, judge: Judge, path: Path, *, model: str, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self._judge, self._path, self._model, self._tell = judge, path, model, tell
        self._asked = self._hits = 0
        self._usable = True
        self._lock = threading.Lock()  # one connection and one model, whoever asks
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=LOCK_SECONDS, check_same_thread=False)
            with self._database:
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, p REAL NOT NULL) WITHOUT ROWID"
                )
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{path}: cannot be a cache of verdicts: {error}; valid: such a cache, or a new path"
            ) from error

    def entails(self, pairs: Sequence[Pair]) -> list[float]:
        """The probability of each (premise, hypothesis); each distinct pair is looked up, or judged, once."""
        keys = [self._key(premise, hypothesis) for premise, hypothesis in pairs]
        distinct = dict(zip(keys, pairs, strict=True))
        with self._lock:
            known = self._read(list(distinct))
            self._asked += len(distinct)
            self._hits += len(known)
            missing = [key for key in distinct if key not in known]
            for start in range(0, len(missing), WRITE_BATCH):
                part = missing[start : start + WRITE_BATCH]
                judged = dict(zip(part, self._judge.entails([distinct[key] for key in part]), strict=True))
                self._write(judged)
                known |= judged
        return [known[key] for key in keys]

    def pop_metrics(self) -> dict[str, float]:
        """The judge's own counts and, of the distinct pairs since the last call, "asked" and "hit_rate" (0 to 1)."""
        with self._lock:
            asked, hits, self._asked, self._hits = self._asked, self._hits, 0, 0
            rate = {"hit_rate": hits / asked} if asked else {}
            return {**pop_metrics(self._judge), "asked": float(asked), **rate}

    def _key(self, premise: str, hypothesis: str) -> bytes:
        """128 bits of a digest. The lengths are part of it, so that no two triples read alike."""
        digest = blake2b(digest_size=16)
        for text in (self._model, premise, hypothesis):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        known: dict[bytes, float] = {}
        try:
            for start in range(0, len(keys) if self._usable else 0, READ_BATCH):
                part = keys[start : start + READ_BATCH]
                marks = ",".join("?" * len(part))
                known.update(self._database.execute(f"SELECT key, p FROM verdicts WHERE key IN ({marks})", part))
        except sqlite3.Error as error:
            self._stop_using(error)
        return known

    def _write(self, judged: dict[bytes, float]) -> None:
        try:
            if self._usable:
                with self._database:  # if another process judged a pair meanwhile, the first verdict stays
                    self._database.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", judged.items())
        except sqlite3.Error as error:
            self._stop_using(error)

    def _stop_using(self, error: sqlite3.Error) -> None:
        self._usable = False
        self._tell(f"warning: {self._path}: {error}; verdicts are no longer kept")
