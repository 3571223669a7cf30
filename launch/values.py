"""What may a recipe's value be where a type alone does not say it? Each refusal says what is valid."""

from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, PlainValidator

LONGEST_NAME = 100  # bytes: a folder's name may have 255, and ours say more than this


def _shots(value: Any) -> int | str:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10):
        return value
    raise ValueError('valid: 0 to 10, or "auto" (2 for a model as it comes, 0 for a checkpoint)')


def _limit(value: Any) -> float | str:
    if value == "auto":
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
        return float(value)
    raise ValueError('valid: a number above 0, or "auto" (0.05 in bfloat16, 0.005 in float32)')


def _name(value: str) -> str:
    if value in (".", "..") or "/" in value or not value.isprintable() or len(value.encode()) > LONGEST_NAME:
        raise ValueError(f"valid: the name of one folder, without /, of at most {LONGEST_NAME} bytes")
    return value


Name = Annotated[str, AfterValidator(_name)]


def _sources(value: Any) -> str | tuple[str, ...]:
    rows = [value] if isinstance(value, str) else value
    rows = list(cast(list[Any], rows)) if isinstance(rows, list | tuple) else []
    if not rows or not all(isinstance(row, str) and row.strip() for row in rows):
        raise ValueError('valid: "world", a file, "hub:NAME[:SPLIT]", or a list of these: ["a.jsonl", "hub:x/y"]')
    return rows[0] if len(rows) == 1 else tuple(rows)


def _unanswerable(value: Any) -> float | str:
    if value == "any":
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError(
        'valid: a share, greater than or equal to 0 and less than or equal to 1, or "any" (as many as the sources have)'
    )


Shots = Annotated[int | Literal["auto"], PlainValidator(_shots)]
Limit = Annotated[float | Literal["auto"], PlainValidator(_limit)]
Sources = Annotated[str | tuple[str, ...], PlainValidator(_sources)]
Unanswerable = Annotated[float | Literal["any"], PlainValidator(_unanswerable)]
