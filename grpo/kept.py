"""What was sampled once is not sampled again: rows on disk behind a first line that says what they were made with.

What was cut off goes on: whole lines are kept, a line that a kill has torn is dropped.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo.errors import UserError

Row = Mapping[str, Any]


class Kept:
    """The rows of a .jsonl file, `rows`, and a way to add to them."""

    def __init__(self, path: Path, made_with: Row, *, what: str, instead: str) -> None:
        """UserError where the file was made with anything else than this, or is not `what` ("cache of this filter")
        at all; `instead` says what to do then ("give another --cache")."""
        self._path, self._what, self._instead = path, what, instead
        self.rows: list[Row] = []
        if path.exists():
            self._read(dict(made_with))
            return
        try:
            path.write_text(json.dumps({"made_with": made_with}) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}; {instead}") from error

    def add(self, rows: Sequence[Row]) -> None:
        """Append, and be sure that it is on disk."""
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows

    def not_ours(self) -> UserError:
        return UserError(f"{self._path} is no {self._what}; {self._instead}")

    def _read(self, made_with: dict[str, Any]) -> None:
        try:
            raw = self._path.read_bytes()
            whole = raw.rfind(b"\n") + 1
            head, *lines = raw[:whole].decode("utf-8").splitlines()
            found = {**json.loads(head)["made_with"]}  # TypeError unless it is an object
            self.rows = [json.loads(line) for line in lines]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise self.not_ours() from None
        for name, value in made_with.items():
            if found.get(name) != value:
                raise UserError(
                    f"{self._path}: made with {name} = {found.get(name)!r}, and this is {value!r}; {self._instead}"
                )
        if whole < len(raw):
            os.truncate(self._path, whole)
