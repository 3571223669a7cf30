"""Recipes: TOML files from left to right, overrides last, into one typed value. Later wins; unknown names are refused.

The loader knows no section of this project. It fills a pydantic class whose fields are `Section`s, and names file, line
and key of what is wrong. `renamed`, a class attribute of that class, maps old keys to new ones.
"""

import difflib
import json
import os
import re
import shlex
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from grpo.errors import UserError

T = TypeVar("T", bound=BaseModel)
# ValueError also stands for a number of over 4,300 digits, RecursionError for thousands of brackets.
NOT_TOML = (ValueError, RecursionError)
MAX_SHOWN = 200  # characters of a value in a message
Path_ = tuple[str, ...]
Origin = dict[Path_, str]  # ("sampling", "group_size") -> "configs/stage1.toml:12"
Layer = tuple[dict[str, Any], Origin]


class Section(BaseModel):
    """A table of a recipe: checked when it is made, constant afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with these fields changed. The copy is checked like the original."""
        return type(self).model_validate(dict(self) | changes)


def load(cls: type[T], argv: Sequence[str], *, check: Callable[[T], object] | None = None) -> T:
    """Return the value of these files and overrides: `load(Recipe, ["configs/stage1.toml", "--run.seed=3"])`.

    `check` raises ValueError for what a command refuses beyond the class. Raises UserError: file, line and key.
    """
    values: dict[str, Any] = {}
    origin: Origin = {}
    for layer, where in _layers(cls, argv):
        _merge(values, _known(cls, layer, (), where, getattr(cls, "renamed", {})), cls)
        origin |= where
    try:
        loaded = cls.model_validate(values)
    except ValidationError as error:
        raise UserError(_message(error, cls, origin)) from None
    try:
        _ = check and check(loaded)
    except ValueError as error:
        raise UserError(f"{_place_named_in(str(error), (), origin)}: {error}") from None
    return loaded


def dump(value: BaseModel) -> str:
    """Return TOML that `load` reads back to an equal value; fields that are None are left out."""
    return tomli_w.dumps(value.model_dump(exclude_none=True))


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text. Raises one of `NOT_TOML`; integers beyond 64 bits are not TOML either."""
    values = tomllib.loads(text)
    if not all(-(2**63) <= number < 2**63 for number in _integers(values)):
        raise ValueError("an integer of more than 64 bits")
    return values


# --- help -------------------------------------------------------------------------------------------------------------


def describe(cls: type[BaseModel], only: Sequence[str] = ()) -> str:
    """Return the text of `--help`: every field of these sections and keys (default: all) with type, default, sentence.

    Each `--section.key=default` can be pasted back into a shell.
    """
    lines: list[str] = []
    for name, info in cls.model_fields.items():
        kind = _bare(info.annotation)
        if not _is_section(kind) or (only and not any(part.split(".")[0] == name for part in only)):
            continue
        lines += ["", f"[{name}]  {(kind.__doc__ or '').strip().splitlines()[0]}"]
        for key, field in kind.model_fields.items():
            if only and not {name, f"{name}.{key}"} & {*only}:
                continue
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            flag = f"[{name}.{key}]" if default is None else shlex.quote(f"--{name}.{key}={_toml(default)}")
            lines.append(f"  {flag}  ({_type(field.annotation, field.metadata)})")
            lines += textwrap.wrap(field.description or "", 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines[1:])


def _toml(value: object) -> str:
    """Return a value as an override takes it.

    >>> _toml((1.0, 1.05)), _toml(["a b"]), _toml({"prose": 0.6}), _toml("stage1"), _toml(True)
    ('[1.0, 1.05]', '["a b"]', '{prose = 0.6}', 'stage1', 'true')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(json.dumps(item) if isinstance(item, str) else _toml(item) for item in value) + "]"
    return str(value).lower()


def _type(kind: Any, metadata: Sequence[Any] = ()) -> str:
    """Return the type and the choices of a field in words.

    >>> _type(Literal["auto", "hf"]), _type(float | Literal["any"]), _type(dict[str, float]), _type(bool)
    ('auto, hf', 'number, any', 'table', 'true, false')
    """
    if isinstance(kind, FieldInfo):
        return _type(kind.annotation, kind.metadata)
    origin, parts = get_origin(kind), get_args(kind)
    if hasattr(kind, "__metadata__"):
        inner = [m for f in kind.__metadata__ for m in getattr(f, "metadata", [f])]
        return _type(kind.__origin__, [*metadata, *inner])
    if origin is Literal:
        return ", ".join(str(part) or '""' for part in parts)
    if origin in (Union, UnionType):
        return ", ".join(_type(part) for part in parts if part is not NoneType)
    if origin is not None:
        return "table" if issubclass(origin, Mapping) else "list"
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [f"{sign} {getattr(m, name)}" for m in metadata for name, sign in signs.items() if hasattr(m, name)]
    names = {bool: "true, false", int: "integer", float: "number", str: "text"}
    return " ".join([names.get(kind) or kind.__name__, " and ".join(bounds)]).strip()


# --- layers -----------------------------------------------------------------------------------------------------------


def _layers(cls: type[BaseModel], argv: Sequence[str]) -> Iterator[Layer]:
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            yield from _file(Path(argument).expanduser(), ())
            continue
        name, equals, raw = argument[2:].partition("=")
        path = tuple(name.replace("-", "_").split("."))
        kind = _kind(cls, path)
        if not equals and kind is None and path[-1].startswith("no_"):
            path, kind, raw = (*path[:-1], path[-1][3:]), _kind(cls, (*path[:-1], path[-1][3:])), "false"
            kind = kind if kind is bool else None
        elif not equals and kind is bool:
            raw = "true"
        elif not equals and kind is not None and rest and not rest[0].startswith("--"):
            raw = rest.pop(0)
            argument = f"{argument} {raw}"
        elif not equals or not name:
            raise UserError(f"{argument}: an override is written --section.key=value")
        yield _override(path, raw, kind), {path: argument}


def _override(path: Path_, raw: str, kind: object) -> dict[str, Any]:
    try:
        value = parse_toml(f"value = {raw}")["value"]
    except NOT_TOML:
        value = raw  # a bare word is a string: --run.name=first-try
    if kind is str and not raw.startswith(('"', "'")):
        value = raw  # a name is a name also where it looks like a number or a date: --run.name=2026-11-01
    layer: Any = value
    for part in reversed(path):
        layer = {part: layer}
    return layer


def _file(path: Path, above: tuple[Path, ...]) -> Iterator[Layer]:
    """Yield the layers of a recipe: those of its `base`, then its own. `above` are the files that it is a base of."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path, or text that is not UTF-8
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=3, cutoff=0.3)
        hint = f"; there is {', '.join(near)}" if near else ""
        reason = error.strerror if isinstance(error, OSError) else "no path, or not UTF-8"
        by = f"{above[-1]}:{_line(above[-1].read_text('utf-8-sig'), ('base',))}: base: " if above else ""
        raise UserError(f"{by}{path}: cannot read this recipe ({reason}){hint}") from None
    try:
        layer = parse_toml(text)
    except NOT_TOML as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    origin = {key: f"{path}:{_line(text, key)}" for key in _leaves(layer)}
    base = layer.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{origin[('base',)]}: base = {_shown(base)}; valid: the name of a recipe, in quotes")
        below, files = Path(os.path.normpath(path.parent / Path(base).expanduser())), (*above, path)
        if any(below.resolve() == file.resolve() for file in files):
            raise UserError(f"{origin[('base',)]}: base = {base!r}: this recipe would be a base of itself")
        yield from _file(below, files)
    yield layer, origin


def _known(
    cls: type[BaseModel], layer: Mapping[str, Any], path: Path_, where: Origin, renamed: Mapping[str, str]
) -> dict[str, Any]:
    """Return the layer if the class has a place for all of it, or without what a class with extra="ignore" leaves."""
    known, kept = _kinds(cls), {}
    for name, value in layer.items():
        here = (*path, name)
        if name not in known and cls.model_config.get("extra") == "ignore":
            continue
        place = next((origin for key, origin in where.items() if key[: len(here)] == here), "")
        if name not in known:
            raise UserError(f"{place}: {_unknown(cls, here, renamed)}")
        if not _is_section(known[name]):
            kept[name] = value
        elif isinstance(value, Mapping):
            kept[name] = _known(known[name], value, here, where, renamed)
        else:
            raise UserError(f"{place}: {'.'.join(here)} is a section: write [{'.'.join(here)}] and keys below it")
    return kept


def _unknown(cls: type[BaseModel], path: Path_, renamed: Mapping[str, str]) -> str:
    """Return what is said of a key that the section `cls` has no place for."""
    name = ".".join(path)
    if name in renamed:
        return f"{name} is now {renamed[name]}"
    known = _kinds(cls)
    found = [f"{section}.{name}" for section, kind in known.items() if _is_section(kind) and name in _kinds(kind)]
    found = found or [".".join((*path[:-1], near)) for near in difflib.get_close_matches(path[-1], known, 1, 0.5)]
    return f"unknown key {name}; " + (f"did you mean {' or '.join(found)}?" if found else f"valid: {', '.join(known)}")


def _merge(into: dict[str, Any], layer: Mapping[str, Any], cls: type[BaseModel]) -> None:
    """Merge sections key by key. A table that is a value, such as weights, replaces the one before it."""
    for name, value in layer.items():
        kind = _kinds(cls)[name]
        if _is_section(kind):
            _merge(into.setdefault(name, {}), value, kind)
        else:
            into[name] = value


# --- messages ---------------------------------------------------------------------------------------------------------


def _message(error: ValidationError, cls: type[BaseModel], origin: Origin) -> str:
    """Return the first error in one line: place, key, value, what is valid."""
    problems = error.errors()
    problem = problems[0]
    path = tuple(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if get_origin(_kind(cls, path[:2])) in (Union, UnionType):  # one error for each member, behind the member's name
        path = path[:2]
        other = [p["msg"].removeprefix("Input should be ") for p in problems[1:] if tuple(p["loc"][:2]) == path]
        message = ", or ".join(dict.fromkeys([message, *other]))
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        near = difflib.get_close_matches(problem["input"], re.findall(r"'([^']+)'", message), 1, 0.5)
        message += f"; nearest: {near[0]!r}" if near else ""
    place = next((origin[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origin), None)
    if place is None and len(path) > 2:  # a key that is missing: where its section begins, as that is within one
        place = next((origin[key] for key in origin if key[:2] == path[:2]), None)
    if place is None:  # about a section, or the recipe, as a whole
        place = _place_named_in(message, path, origin)
        return f"{place}: {'.'.join(path)}: {message}" if path else f"{place}: {message}"
    got = "" if problem["type"] == "missing" else f" = {_shown(problem['input'])}"
    return f"{place}: {'.'.join(path)}{got}: {message}"


def _place_named_in(message: str, path: Path_, origin: Origin) -> str:
    """Return where the first key was set that a message about the section `path` names, of those that were set."""
    names = {key: ".".join(key[len(path) : 2]) for key in origin if key[: len(path)] == path}
    found = {message.index(name): origin[key] for key, name in names.items() if name and name in message}
    return found[min(found)] if found else "recipe"


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."


def _line(text: str, key: Path_) -> int:
    """Return the line, from 1, that sets `key`: tomllib does not tell, so the text is read again line by line."""
    section: Path_ = ()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            section = tuple(part.strip().strip('"') for part in stripped.strip("[]").split("."))
        name = stripped.partition("=")[0].strip().strip('"')
        here = (*section, *name.split("."))  # the line of an inline table sets all that is in the table
        if key[: len(here)] == here or (name == key[-1] and section == key[:-1]) or section == key:
            return number
    return 1


def _leaves(layer: Mapping[str, Any], path: Path_ = ()) -> list[Path_]:
    found: list[Path_] = []
    for name, value in layer.items():
        found += _leaves(value, (*path, name)) if isinstance(value, Mapping) and value else [(*path, name)]
    return found


def _integers(value: object) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _integers(item)


# --- types ------------------------------------------------------------------------------------------------------------


def _kinds(cls: type[BaseModel]) -> dict[str, Any]:
    return {name: _bare(info.annotation) for name, info in cls.model_fields.items()}


def _kind(cls: Any, path: Path_) -> Any:
    """Return the type of the field at `path`, or None where there is no such field."""
    for part in path:
        cls = _kinds(cls).get(part) if _is_section(cls) else None
    return cls


def _bare(kind: Any) -> Any:
    """Return X of `X | None`: a section that may be missing is a section like any other."""
    rest = [part for part in get_args(kind) if part is not NoneType]
    return rest[0] if isinstance(kind, UnionType) and len(rest) == 1 else kind


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
