"""Records of local files and hub data sets, each with its location, and the check of a record against a schema.

A location is how messages name a record: `data.jsonl:3`, or `data.json, record 3`. Every error is a `UserError`: the
location, the field, what was found, and what is valid.
"""

import csv
import difflib
import gzip
import io
import json
import math
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
SUFFIXES = (*KINDS, *(f"{kind}.gz" for kind in KINDS), ".parquet")
SAVED = ("dataset_dict.json", "state.json")  # in a folder that `save_to_disk` has written
QUESTION_FIELDS = ("question", "query", "user_input", "input", "problem", "Question")
"""An object with a string in one of these is a record; without, an object around a list of records."""

_ENDINGS = f"a {', '.join(SUFFIXES)} file"
_GZIP = b"\x1f\x8b"

csv.field_size_limit(2**24)  # characters; Python's limit of 131,072 is less than some passages


class Schema(BaseModel):
    """Base of the schemas of records. Types are strict, unknown fields are ignored, and a description says what is
    valid."""

    model_config = ConfigDict(strict=True, frozen=True)


S = TypeVar("S", bound=Schema)


def read_records(source: str | Path) -> Iterator[tuple[str, Record]]:
    """(location, record) of a local file or folder, or of `hub:NAME`, `hub:NAME:SPLIT` or `hub:NAME:CONFIG/SPLIT`.

    Files are those of `SUFFIXES`, and JSON of any name. A folder is one that `save_to_disk` has written, or its files
    are read in the order of their names. A record of a table is {column: cell}; NaN is read as null. UserError for a
    source without any record.
    """
    rows = _hub_rows(str(source)) if str(source).startswith(HUB) else _local_rows(Path(os.path.expanduser(source)))
    empty = True
    for location, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{location}: a record is {type(row).__name__}; expected an object with fields by name")
        empty = False
        yield location, cast(Record, row)
    if empty:
        raise UserError(f"{source}: holds no records; expected at least one")


def parse_record(location: str, record: Record, schema: type[S], given: Record | None = None, **defaults: object) -> S:
    """The record as an instance of `schema`, with `defaults` for missing fields. UserError names the first wrong field.

    A field that is null counts as missing, because the columns of a hub data set are filled up with null. The message
    names the fields of `given`, the record as the file has it.
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
    raise wrong_field(location, path, value, field.description or "a string with text", given or record)


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
    datasets = _import_datasets(source)
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        names = _hub_names(name) if isinstance(error, ValueError) else ""  # other errors: the hub cannot be asked
        raise UserError(f"{source}: {reason}; expected {names or 'hub:NAME:CONFIG/SPLIT'}") from error
    for number, row in enumerate(cast(Iterable[object], rows), 1):
        yield f"{source}, record {number}", _plain(row)


def _import_datasets(source: str | Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{source}: needs the datasets package; install it, or give a local file") from error
    return datasets


def _hub_names(name: str) -> str:
    """All configurations and splits of a hub data set, as sources; empty where the hub does not say."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        configs = datasets.get_dataset_config_names(name)
        splits = [(config, split) for config in configs for split in datasets.get_dataset_split_names(name, config)]
    except (OSError, ValueError, DatasetsError):
        return ""
    return "one of " + ", ".join(f"{HUB}{name}:{config}/{split}" for config, split in splits)


def _local_rows(path: Path) -> Iterator[tuple[str, object]]:
    if not os.path.isdir(path):
        yield from _file_rows(path)
    elif any((path / name).is_file() for name in SAVED):
        yield from _saved_rows(path)
    else:
        files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.is_file())
        if not files:
            raise UserError(
                f"{path}: a folder without data files; expected {_ENDINGS} in it, or {HUB}{path} for a folder that is "
                "laid out as on the hub"
            )
        for file in files:
            yield from _file_rows(file)


def _saved_rows(path: Path) -> Iterator[tuple[str, object]]:
    """The records of `Dataset.save_to_disk`, or of a `DatasetDict`'s one split, or of its split "train"."""
    datasets = _import_datasets(path)
    try:
        saved: Any = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); expected a folder of save_to_disk") from error
    if isinstance(saved, dict):
        splits = cast(dict[str, Any], saved)
        split = "train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None
        if split is None:
            raise UserError(f"{path}: several splits; expected one of {', '.join(str(path / s) for s in splits)}")
        saved, path = splits[split], path / split
    for number, row in enumerate(cast(Iterable[object], saved), 1):
        yield f"{path}, record {number}", _plain(row)


def _file_rows(path: Path) -> Iterator[tuple[str, object]]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    text = _read_text(path)
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix in KINDS), None)
    if kind in (".csv", ".tsv"):
        yield from _table_rows(path, text, "," if kind == ".csv" else "\t")
    elif kind == ".jsonl" or _is_json_lines(text):
        # not splitlines(): JSON strings may hold U+2028 and other line ends of Unicode unescaped
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}:{number}", _parse_json(path, line, "one JSON object on each line", number)
    else:
        for number, row in enumerate(_json_list(path, text), 1):
            yield f"{path}, record {number}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, object]]:
    try:
        from pyarrow import parquet  # comes with datasets
    except ImportError as error:
        raise UserError(f"{path}: needs the datasets package; install it, or give a .jsonl file") from error
    try:
        rows = cast(list[object], parquet.read_table(path).to_pylist())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_neighbors(path)}") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); expected a .parquet file") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, record {number}", _plain(row)


def _plain(row: object) -> object:
    """A row of columns as JSON would have it: dates as text, NaN and bytes as null."""
    text = json.dumps(row, default=lambda value: None if isinstance(value, bytes) else str(value))
    return json.loads(text, parse_constant=_constant)


def _is_json_lines(text: str) -> bool:
    """Whether the first line alone is an object, and another line follows it."""
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _read_text(path: Path) -> str:
    raw = b""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" or raw.startswith(_GZIP) else raw
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_neighbors(path)}") from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = "UTF-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "not UTF-8"
        raise UserError(f"{path}:{line}: byte {error.start} is {found}; expected UTF-8 text") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: a null byte in the name
        raise UserError(f"{path}: cannot be read ({error}); expected {_ENDINGS}") from error
    if not path.name.endswith(SUFFIXES) and not text.lstrip().startswith(("{", "[")):
        raise UserError(f"{path}: unknown ending, and no JSON; expected {_ENDINGS}")
    return text


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
    if isinstance(rows, dict):
        top = cast(dict[str, object], rows)
        lists = [value for name, value in top.items() if name != "messages" and _holds_records(value)]
        if any(isinstance(top.get(name), str) for name in QUESTION_FIELDS) or {"messages", "inputs"} & top.keys():
            rows = [top]  # a single record
        elif len(lists) == 1:  # an object about the data set with the records in one of its fields
            rows = lists[0]
    if not isinstance(rows, list):
        has = f" with {', '.join(cast(dict[str, object], rows)) or 'no fields'}" if isinstance(rows, dict) else ""
        raise UserError(f"{path}: {type(rows).__name__}{has} at the top; expected {valid}, or an object that holds one")
    return cast(list[object], rows)


def _holds_records(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(row, dict) for row in cast(list[object], value))


def _parse_json(path: Path, text: str, valid: str, line: int | None = None) -> Any:
    """UserError also for thousands of nested brackets, and for half of a surrogate pair, which no file can hold."""
    try:
        value: object = json.loads(text, parse_constant=_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        where, reason = line or 1, str(error)
        if isinstance(error, json.JSONDecodeError):
            where, reason = line or error.lineno, f"{error.msg}, column {error.colno}"
        raise UserError(f"{path}:{where}: malformed JSON ({reason}); expected {valid}") from error


def _constant(name: str) -> float | None:
    """NaN is pandas' way to write a missing value."""
    return None if name == "NaN" else math.inf if name == "Infinity" else -math.inf


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
