"""Records of local files and hub data sets, each with its location, and the check of a record against a schema.

A location is how messages name a record: `data.jsonl:3`, or `data.json, record 3`. Every error is a `UserError`: the
location, the field, what was found, and what is valid.
"""

import csv
import difflib
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from grpo.errors import UserError

Record = Mapping[str, object]
Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""A string that is not blank."""

HUB = "hub:"
KINDS = (".json", ".jsonl", ".csv", ".tsv")
SUFFIXES = (*KINDS, *(f"{kind}.gz" for kind in KINDS))
_ENDINGS = f"a {', '.join(SUFFIXES)} file"

csv.field_size_limit(2**24)  # characters; Python's limit of 131,072 is less than some passages


class Schema(BaseModel):
    """Base of the schemas of records. Types are strict, unknown fields are ignored, and a description says what is
    valid."""

    model_config = ConfigDict(strict=True, frozen=True)


S = TypeVar("S", bound=Schema)


def read_records(source: str | Path) -> Iterator[tuple[str, Record]]:
    """(location, record) of a local file (`SUFFIXES`), or of `hub:NAME`, `hub:NAME:SPLIT` or `hub:NAME:CONFIG/SPLIT`.

    A record of a table is {column: cell}. UserError for a source without any record.
    """
    rows = _hub_rows(str(source)) if str(source).startswith(HUB) else _file_rows(Path(os.path.expanduser(source)))
    empty = True
    for location, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{location}: a record is {type(row).__name__}; expected an object with fields by name")
        empty = False
        yield location, cast(Record, row)
    if empty:
        raise UserError(f"{source}: holds no records; expected at least one")


def parse_record(location: str, record: Record, schema: type[S], **defaults: object) -> S:
    """The record as an instance of `schema`, with `defaults` for missing fields. UserError names the first wrong field.

    A field that is null counts as missing, because the columns of a hub data set are filled up with null.
    """
    try:
        return schema.model_validate({**defaults, **{name: v for name, v in record.items() if v is not None}})
    except ValidationError as error:
        loc = error.errors(include_url=False)[0]["loc"]
    path, value = str(loc[0]), record.get(str(loc[0]))
    for part in loc[1:]:  # up to the name of a union's member, which is no part of the record
        if isinstance(value, Mapping):
            path, value = f"{path}.{part}", cast(Record, value).get(str(part))
        elif isinstance(value, list) and isinstance(part, int):
            path, value = f"{path}[{part}]", cast(list[object], value)[part]
    fields = schema.model_fields
    field = fields.get(str(loc[0])) or next(f for f in fields.values() if f.alias == loc[0])
    raise wrong_field(location, path, value, field.description or "a string with text", record)


def wrong_field(location: str, field: str, value: object, valid: str, record: Record | None = None) -> UserError:
    """The error for a field of a record: what was found and what is valid.

    >>> print(wrong_field("a.jsonl:3", "question", None, "a string", {"query": "Who?"}))
    a.jsonl:3: question is missing; expected a string (the record has query)
    """
    if value is None:
        has = f" (the record has {', '.join(map(str, record))})" if record else ""
        return UserError(f"{location}: {field} is missing; expected {valid}{has}")
    blank = value in ([], {}) or (isinstance(value, str) and not value.strip())
    return UserError(f"{location}: {field} is {'empty' if blank else f'{value!r:.60}'}; expected {valid}")


def text_field(location: str, record: Record, field: str, *, blank: bool = False) -> str:
    """The string `record[field]`. UserError for any other value, and for a blank string unless `blank`."""
    value = record.get(field)
    if not isinstance(value, str) or not (blank or value.strip()):
        raise wrong_field(location, field, value, "a string with text")
    return value


def source_name(source: str | Path) -> str:
    """The name of a source whose records state none: `hub:NAME` is NAME, `data/musique.jsonl.gz` is "musique"."""
    text = str(source)
    return text.removeprefix(HUB) if text.startswith(HUB) else Path(text).name.partition(".")[0]


def write_jsonl(path: Path, rows: Iterable[Record]) -> None:
    """Write a line for each row. The file appears whole or not at all, and never replaces another."""
    check_new_file(path)
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial.rename(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}; expected a file in a folder that exists"
        ) from None


def check_new_file(path: Path, suffix: str = ".jsonl") -> None:
    """UserError unless a new file with this suffix can be written at `path`."""
    if path.suffix != suffix:
        raise UserError(f"{path}: expected a name that ends in {suffix}")
    if os.path.lexists(path):
        raise UserError(f"{path} exists and is not overwritten; expected another name")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; expected a file in a folder that exists")


def _hub_rows(source: str) -> Iterator[tuple[str, object]]:
    name, _, rest = source.removeprefix(HUB).partition(":")
    config, _, split = rest.rpartition("/")
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise UserError(f"{source}: needs the datasets package; install it, or give a local file") from error
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train")
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: {reason}; expected hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIG/SPLIT") from error
    for number, row in enumerate(cast(Iterable[object], rows), 1):
        yield f"{source}, record {number}", row


def _file_rows(path: Path) -> Iterator[tuple[str, object]]:
    text = _read_text(path)
    kind = next(suffix for suffix in reversed(path.suffixes) if suffix in KINDS)
    if kind in (".csv", ".tsv"):
        yield from _table_rows(path, text, "," if kind == ".csv" else "\t")
    elif kind == ".json":
        for number, row in enumerate(_json_list(path, text), 1):
            yield f"{path}, record {number}", row
    else:
        # not splitlines(): JSON strings may hold U+2028 and other line ends of Unicode unescaped
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}:{number}", _parse_json(path, line, "one JSON object on each line", number)


def _read_text(path: Path) -> str:
    if os.path.isdir(path) or not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: {'a folder' if os.path.isdir(path) else 'unknown ending'}; expected {_ENDINGS}")
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_neighbors(path)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; expected UTF-8 text") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: a null byte in the name
        raise UserError(f"{path}: cannot be read ({error}); expected a {path.suffix} file") from error


def _neighbors(path: Path) -> str:
    """The files with the nearest names, for the message about a missing file."""
    try:
        names = sorted(name for name in os.listdir(path.parent) if name.endswith(SUFFIXES))
    except OSError:
        return f"there is no folder {path.parent} that can be read"
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    return f"nearest in {path.parent}: {', '.join(near)}" if near else f"{path.parent} holds no {_ENDINGS}"


def _json_list(path: Path, text: str) -> list[object]:
    valid = "a JSON list of records"
    rows = _parse_json(path, text, valid) if text.strip() else []
    if isinstance(rows, dict):  # an object about the data set with the records in one of its fields
        lists = [value for value in cast(dict[str, object], rows).values() if _holds_records(value)]
        rows = lists[0] if len(lists) == 1 else rows
    if not isinstance(rows, list):
        raise UserError(f"{path}: {type(rows).__name__} at the top; expected {valid}, or an object that holds one")
    return cast(list[object], rows)


def _holds_records(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(row, dict) for row in cast(list[object], value))


def _parse_json(path: Path, text: str, valid: str, line: int | None = None) -> Any:
    """UserError also for thousands of nested brackets, and for half of a surrogate pair, which no file can hold."""
    try:
        value: object = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        where, reason = line or 1, str(error)
        if isinstance(error, json.JSONDecodeError):
            where, reason = line or error.lineno, f"{error.msg}, column {error.colno}"
        raise UserError(f"{path}:{where}: malformed JSON ({reason}); expected {valid}") from error


def _table_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, object]]:
    """The records of a table with a header. A cell may hold line ends, so a location is the number of the record."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(cast(Iterator[Mapping[str | None, object]], reader), 1):
            if None in row or None in row.values():
                count = len(reader.fieldnames or ())
                raise UserError(f"{path}, record {number}: fewer or more cells than the header; expected {count}")
            yield f"{path}, record {number}", row
    except csv.Error as error:
        line = reader.reader.line_num
        raise UserError(f"{path}:{line}: malformed table ({error}); expected a header and records") from error
