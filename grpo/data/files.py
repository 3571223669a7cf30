"""What records does a local file hold? JSON, JSON Lines, CSV and TSV, gzipped or not, each record with its place.

Every complaint is an `UserError` of one line: the file, the line, what is wrong, and what would be valid.
"""

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from grpo.errors import UserError

KINDS = (".json", ".jsonl", ".csv", ".tsv")
SUFFIXES = (*KINDS, *(f"{kind}.gz" for kind in KINDS))
_ENDINGS = f"a {', '.join(SUFFIXES)} file"

Rows = Iterator[tuple[str, object]]

csv.field_size_limit(2**24)  # of characters; Python's own limit is 131,072, and a passage may be longer


def file_rows(path: Path) -> Rows:
    """(place, record) of a file, in order: `("data.jsonl:3", {...})`; a record of a table is {column: cell}."""
    text = _read(path)
    kind = next(suffix for suffix in path.suffixes[::-1] if suffix in KINDS)
    if kind in (".csv", ".tsv"):
        return _table(path, text, "," if kind == ".csv" else "\t")
    return _json_lines(path, text) if kind == ".jsonl" else _json_list(path, text)


def _read(path: Path) -> str:
    """The text of a local file; a missing, unreadable or oddly named one is an `UserError`."""
    if not path.exists():
        raise UserError(f"{path}: no such file; {_neighbors(path)}")
    if path.is_dir() or not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: {'a folder' if path.is_dir() else 'unknown ending'}; expected {_ENDINGS}")
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected a {path.suffix} file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; expected UTF-8 text") from error


def _neighbors(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(SUFFIXES))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    return f"nearest in {folder}: {', '.join(near)}" if near else f"expected {_ENDINGS}, and {folder} holds none"


def _json_lines(path: Path, text: str) -> Rows:
    # not splitlines(): JSON strings may hold U+2028 and other line ends of Unicode as they are
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except (ValueError, RecursionError) as error:
            raise _malformed(path, error, number, "one JSON object a line") from error
        yield f"{path}:{number}", row


def _json_list(path: Path, text: str) -> Rows:
    if not text.strip():
        return
    try:
        rows = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, error, getattr(error, "lineno", 1), "a JSON list of records") from error
    if isinstance(rows, dict):  # a data set that says something of itself: {"name": ..., "example": [...]}
        lists = [value for value in cast(dict[str, object], rows).values() if _holds_records(value)]
        rows = lists[0] if len(lists) == 1 else rows
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: {type(rows).__name__} at the top; expected a JSON list of records, or an object that holds one"
        )
    for number, row in enumerate(cast(list[object], rows), 1):
        yield f"{path}, record {number}", row


def _holds_records(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(row, dict) for row in cast(list[object], value))


def _table(path: Path, text: str, delimiter: str) -> Rows:
    """The records of a table with a header; a cell may hold line ends, so the place is a record's number."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(cast(Iterator[Mapping[str | None, object]], reader), 1):
            if None in row or None in row.values():
                count = len(reader.fieldnames or ())
                raise UserError(f"{path}, record {number}: fewer or more cells than the header; expected {count}")
            yield f"{path}, record {number}", row
    except csv.Error as error:
        place = f"{path}:{reader.reader.line_num}"
        raise UserError(f"{place}: malformed table ({error}); expected a header and records") from error


def _parsed(text: str) -> object:
    """RecursionError for thousands of brackets, ValueError also for half of a surrogate pair: nothing can write it."""
    value: object = json.loads(text)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _malformed(path: Path, error: Exception, line: int, valid: str) -> UserError:
    why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return UserError(f"{path}:{line}: malformed JSON ({why}); expected {valid}")
