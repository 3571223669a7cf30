"""Recipes: TOML files from left to right, dotted overrides last, into one typed value. Later wins; unknown names fail.

Generic: knows nothing of this project's sections. The class that is loaded is a dataclass or pydantic model whose
fields are such sections; pydantic checks the values. Its attribute `renamed`, where it has one, maps old keys to new.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import tomli_w
from pydantic import BaseModel, TypeAdapter, ValidationError

from grpo.errors import UserError

T = TypeVar("T")
# ValueError: a number of over 4,300 digits, too; RecursionError: thousands of brackets.
NOT_TOML = (ValueError, RecursionError)
Origin = dict[tuple[str, ...], str]  # ("sampling", "group_size") -> "configs/stage1.toml:12"


def load(cls: type[T], argv: Sequence[str]) -> T:
    """`load(Recipe, ["configs/stage1.toml", "--run.seed=3"])`; UserError names file, line and key of what is wrong."""
    values: dict[str, Any] = {}
    origin: Origin = {}
    for argument in argv:
        layer, where = _override(cls, argument) if argument.startswith("--") else _file(Path(argument))
        _check_names(cls, layer, (), where, getattr(cls, "renamed", {}))
        _merge(cls, values, layer)
        origin |= where
    try:
        loaded = TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise UserError(_first(error, origin)) from None
    plain = _plain(loaded)
    for key, place in origin.items():
        found = _at(plain, key)
        if not all(map(_fits, _integers(found))):  # made of text
            raise UserError(f"{place}: {'.'.join(key)} = {shortened(found)}: an integer of more than 64 bits")
    return loaded


def dump(value: object) -> str:
    """TOML that `load` reads back to an equal value; fields that are None are left out."""
    return tomli_w.dumps(_plain(value))


def describe(cls: type) -> str:
    """Every key with its default, one per line, for `--help`."""
    lines = []
    for name, kind in _fields(cls).items():
        if _is_section(kind):
            lines.append(f"[{name}]")
            lines += [f"  --{name}.{key}={_default(kind, key)}" for key in _fields(kind)]
    return "\n".join(lines)


def _file(path: Path) -> tuple[dict[str, Any], Origin]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path, or text that is not UTF-8
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=3, cutoff=0.3)
        hint = f"; there is {', '.join(near)}" if near else ""
        reason = error.strerror if isinstance(error, OSError) else "no path, or not UTF-8"
        raise UserError(f"{path}: cannot read this recipe ({reason}){hint}") from None
    try:
        layer = parsed(text)
    except NOT_TOML as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    return layer, {key: f"{path}:{_line(text, key)}" for key in _leaves(layer)}


def parsed(text: str) -> dict[str, Any]:
    """TOML with numbers as it has them. Python's go on for ever, but those of over 4,300 digits cannot be written."""
    values = tomllib.loads(text)
    if not all(map(_fits, _integers(values))):
        raise ValueError("an integer of more than 64 bits")
    return values


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**63


def _at(values: Any, path: tuple[str, ...]) -> object:
    for name in path:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _integers(value: object) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _integers(item)


def _override(cls: Any, argument: str) -> tuple[dict[str, Any], Origin]:
    name, equals, raw = argument[2:].partition("=")
    if not equals or not name:
        raise UserError(f"{argument}: an override is written --section.key=value")
    try:
        value = parsed(f"value = {raw}")["value"]
    except NOT_TOML:
        value = raw  # a bare word is a string: --run.name=first-try
    path = tuple(name.split("."))
    kind = cls
    for part in path:
        kind = _fields(kind).get(part)
    if kind is str and not raw.startswith(('"', "'")):
        value = raw  # a name is a name also where it looks like a number or a date: --run.name=2026-11-01
    layer: Any = value
    for part in reversed(path):
        layer = {part: layer}
    return layer, {path: argument}


def _check_names(
    cls: Any, layer: Mapping[str, Any], path: tuple[str, ...], where: Origin, renamed: Mapping[str, str]
) -> None:
    known = _fields(cls)
    for name, value in layer.items():
        here = (*path, name)
        if name not in known and _ignores_unknown(cls):
            continue
        if name not in known:
            place = next(origin for key, origin in where.items() if key[: len(here)] == here or key == here)
            if new := renamed.get(".".join(here)):
                raise UserError(f"{place}: {'.'.join(here)} is now {new}")
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {'.'.join((*path, near[0]))}?" if near else f"valid: {', '.join(known)}"
            raise UserError(f"{place}: unknown key {'.'.join(here)}; {hint}")
        if _is_section(known[name]):
            if not isinstance(value, Mapping):
                place = next(origin for key, origin in where.items() if key[: len(here)] == here)
                raise UserError(f"{place}: {'.'.join(here)} is a section: write [{'.'.join(here)}] and keys below it")
            _check_names(known[name], value, here, where, renamed)


def _first(error: ValidationError, origin: Origin) -> str:
    problem = error.errors()[0]
    path = tuple(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    place = next((origin[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origin), None)
    if place is None and len(path) > 2:  # a key that is missing: where its section begins, as that is within one
        place = next((origin[key] for key in origin if key[:2] == path[:2]), None)
    if place is None:  # about a section, or the recipe, as a whole
        place = _named_in(message, path, origin) or "recipe"
        return f"{place}: {'.'.join(path)}: {message}" if path else f"{place}: {message}"
    got = "" if problem["type"] == "missing" else f" = {shortened(problem['input'])}"
    return f"{place}: {'.'.join(path)}{got}: {message}"


def shortened(value: object, *, most: int = 200) -> str:
    """How a value is shown in a message, at most so many characters of it."""
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[:most]}..."


def _named_in(message: str, path: tuple[str, ...], origin: Origin) -> str | None:
    """Where the first key that a message about the section `path` names was set, of those that were set."""
    names = {key: ".".join(key[len(path) : 2]) for key in origin if key[: len(path)] == path}
    found = {message.index(name): origin[key] for key, name in names.items() if name and name in message}
    return found[min(found)] if found else None


def _merge(cls: Any, into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Sections are merged key by key; a table that is a value, such as weights, is replaced whole."""
    for name, value in layer.items():
        kind = _fields(cls).get(name)
        if _is_section(kind):
            _merge(kind, into.setdefault(name, {}), value)
        else:
            into[name] = _copy(value)


def _copy(value: Any) -> Any:
    return {name: _copy(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def _leaves(layer: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, value in layer.items():
        found += _leaves(value, (*path, name)) if isinstance(value, Mapping) and value else [(*path, name)]
    return found


def _line(text: str, key: tuple[str, ...]) -> int:
    """The line, from 1, that sets `key`; tomllib does not tell, so the file is read again line by line."""
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            section = tuple(part.strip().strip('"') for part in stripped.strip("[]").split("."))
        name = stripped.partition("=")[0].strip().strip('"')
        here = (*section, *name.split("."))  # of an inline table the line sets all that is in it
        if key[: len(here)] == here or (name == key[-1] and section == key[:-1]) or section == key:
            return number
    return 1


def _fields(cls: Any) -> dict[str, Any]:
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return {name: info.annotation for name, info in cls.model_fields.items()}
    if is_dataclass(cls):
        hints = get_type_hints(cls)
        return {field.name: _bare(hints[field.name]) for field in fields(cls)}
    return {}


def _ignores_unknown(cls: Any) -> bool:
    """Whether a class is a view of a part of a recipe."""
    return issubclass(cls, BaseModel) and cls.model_config.get("extra") == "ignore"


def _bare(kind: Any) -> Any:
    """X of `X | None`: a section that may be missing is a section like any other."""
    rest = [part for part in get_args(kind) if part is not NoneType]
    return rest[0] if isinstance(kind, UnionType) and len(rest) == 1 else kind


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel))


def _default(cls: Any, key: str) -> Any:
    if issubclass(cls, BaseModel):
        return cls.model_fields[key].get_default(call_default_factory=True)
    field = next(field for field in fields(cls) if field.name == key)
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else "(required)"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        value = dict(value)
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
