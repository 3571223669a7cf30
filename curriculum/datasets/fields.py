"""Fields of records under the names and in the forms that systems give them. Every error names what was found."""

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from grpo.data.example import STYLES, Passage, Style
from grpo.data.files import Record, wrong_field
from grpo.errors import UserError

TEXT = ("text", "page_content", "passage_text", "paragraph_text", "content", "chunk", "passage", "body", "snippet")
TITLE = ("title", "name", "document_title", "file_name", "source", "url")
IDS = ("id", "_id", "qid", "question_id", "sample_id", "query_id")
PASSAGES = "a text, a list of texts, or a list of objects with title and text"
SPELLINGS = 'a string, or a list of accepted spellings such as ["Paris"]'


def has_path(record: object, path: str) -> bool:
    """Whether a value is there under a dotted path. A list stands for its first element.

    >>> has_path({"context": [{"page_content": "x"}]}, "context.page_content"), has_path({"a": None}, "a")
    (True, False)
    """
    value = record
    for name in path.split("."):
        value = cast(list[object], value)[0] if isinstance(value, list) and value else value
        value = cast(Record, value).get(name) if isinstance(value, Mapping) else None
    return value is not None


def get_path(record: object, path: str) -> object:
    """The value under a dotted path of objects; None if there is none."""
    value = record
    for name in path.split("."):
        value = cast(Record, value).get(name) if isinstance(value, Mapping) else None
    return value


def first_field(record: Record, names: Iterable[str]) -> str | None:
    """The first of these fields with content, or where none has any the first that is there."""
    there = [name for name in names if record.get(name) is not None]
    return next((name for name in there if not _is_blank(record[name])), there[0] if there else None)


def _is_blank(value: object) -> bool:
    found = unpacked(value)
    if isinstance(found, list):
        return all(map(_is_blank, cast(list[object], found)))
    return isinstance(found, str) and not found.strip()


def text_of(location: str, record: Record, *names: str) -> str:
    """The text in the first of these fields with content."""
    name = first_field(record, names) or names[0]
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise wrong_field(location, name, value, "a string with text", record)
    return value


def strings_of(location: str, record: Record, *names: str) -> tuple[str, ...]:
    """The strings in the first of these fields with content: a list, its JSON, or one string; none if all are empty."""
    name = first_field(record, names)
    if name is None:
        raise wrong_field(location, names[0], None, SPELLINGS, record)
    value = unpacked(record[name])
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    rows = cast(list[object], value) if isinstance(value, list) else [value]
    for place, row in enumerate(rows):
        if not isinstance(row, str):
            where = f"{name}[{place}]" if isinstance(value, list) else name
            raise wrong_field(location, where, row, SPELLINGS, record)
    return tuple(row for row in cast(list[str], rows) if row.strip())


def unpacked(value: object) -> object:
    """The list in a cell of a table, as JSON or as Python prints it; any other value as it is.

    >>> unpacked("['a', 'b']"), unpacked("[1] is cited")
    (['a', 'b'], '[1] is cited')
    """
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list):
            return cast(list[object], found)
    return value


def passages_of(location: str, record: Record, name: str) -> tuple[Passage, ...]:
    """The passages in a field: texts, objects, pairs of title and sentences, or an object of columns."""
    value = unpacked(record.get(name))
    if isinstance(value, str) and value.strip():
        value = [value]
    if isinstance(value, Mapping):
        value = _rows_of_columns(location, name, cast(Record, value))
    if not isinstance(value, list):
        raise wrong_field(location, name, value, PASSAGES, record)
    return tuple(_passage(location, f"{name}[{place}]", row) for place, row in enumerate(cast(list[object], value)))


def rows_of(location: str, record: Record, name: str) -> list[Record]:
    """The objects in a field: a list of them, or an object of columns as the hub gives it."""
    value = unpacked(record.get(name))
    if isinstance(value, Mapping):
        return _rows_of_columns(location, name, cast(Record, value))
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in cast(list[object], value)):
        raise wrong_field(location, name, value, "a list of objects", record)
    return cast(list[Record], value)


def _rows_of_columns(location: str, name: str, columns: Record) -> list[Record]:
    lists = {key: cast(list[object], column) for key, column in columns.items() if isinstance(column, list)}
    lengths = {len(column) for column in lists.values()}
    if len(lengths) != 1:
        raise wrong_field(location, name, dict(columns), f"{PASSAGES}, or columns of one length")
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def _passage(location: str, path: str, value: object) -> Passage:
    if isinstance(value, str) and value.strip():
        return Passage(title="", text=value)
    if isinstance(value, list):  # ["Title", ["A sentence.", " Another."]]
        pair = cast(list[object], value)
        if len(pair) == 2 and isinstance(pair[0], str):
            return Passage(title=pair[0], text=_joined(location, f"{path}[1]", pair[1]))
        raise wrong_field(location, path, value, PASSAGES)
    if not isinstance(value, Mapping):
        raise wrong_field(location, path, value, PASSAGES)
    row = cast(Record, value)
    inner = first_field(row, ("node", "document"))
    if inner and first_field(row, TEXT) is None:
        return _passage(location, f"{path}.{inner}", row[inner])
    metadata = row.get("metadata")
    about = cast(Record, metadata) if isinstance(metadata, Mapping) else {}
    title = next((t for fields in (row, about) for n in TITLE if isinstance(t := fields.get(n), str) and t), "")
    if (wrong := row.get("title")) is not None and not isinstance(wrong, str):
        raise wrong_field(location, f"{path}.title", wrong, "a string")
    name = first_field(row, ("sentences", *TEXT))
    if name is None:
        raise wrong_field(location, f"{path}.text", None, PASSAGES, row)
    return Passage(title=title, text=_joined(location, f"{path}.{name}", row[name]))


def _joined(location: str, path: str, value: object) -> str:
    """A text, or the text of its sentences."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in cast(list[object], value)):
        value = "".join(cast(list[str], value)).strip()
    if not isinstance(value, str) or not value.strip():
        raise wrong_field(location, path, value, "a string with text, or a list of sentences")
    return value


def flag_of(location: str, record: Record, name: str, default: bool) -> bool:
    """A field that is true or false, or 1 or 0, also as the text of a table's cell; an empty cell states nothing."""
    value = record.get(name)
    read = value.strip().lower() if isinstance(value, str) else value
    if read is None or read == "":
        return default
    if read not in (0, 1, "0", "1", "false", "true"):
        raise wrong_field(location, name, value, "true or false")
    return read in (1, "1", "true")


def style_of(location: str, record: Record) -> Style | None:
    """The style that a record states; an empty cell of a table states none."""
    stated = record.get("style") or None
    for style in STYLES:
        if style == stated:
            return style
    if stated is not None:
        raise wrong_field(location, "style", stated, f"one of {', '.join(STYLES)}")
    return None


def id_of(record: Record) -> str | None:
    """The id of a record under one of its usual names."""
    name = first_field(record, IDS)
    value = record.get(name) if name else None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip() else None


def rest_of(record: Record, *used: str | None) -> dict[str, object]:
    """The fields that a reader has not used."""
    return {name: value for name, value in record.items() if name not in {"id", *used}}


def rename(location: str, record: Record, fields: Mapping[str, str]) -> Record:
    """The record with our names for the file's fields: {"question": "input.text"} takes `question` from there."""
    renamed = dict(record)
    for ours, theirs in fields.items():
        value = get_path(record, theirs)
        if value is None:
            raise UserError(
                f"{location}: data.fields has {ours} = {theirs}, which is missing; expected one of {_paths(record)}"
            )
        renamed.pop(theirs, None)
        renamed[ours] = value
    return renamed


def _paths(record: Record) -> str:
    """The fields of a record, and those of its objects as dotted paths."""
    found: list[str] = []
    for name, value in record.items():
        inner = cast(Sequence[object], list(cast(Record, value))) if isinstance(value, Mapping) else ()
        found += [str(name), *(f"{name}.{key}" for key in inner)]
    return ", ".join(found)
