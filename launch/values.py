"""What may a recipe's value be where a type alone does not say it? Each refusal says what is valid."""

from typing import Annotated, Any, Literal

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
Shots = Annotated[int | Literal["auto"], PlainValidator(_shots)]
Limit = Annotated[float | Literal["auto"], PlainValidator(_limit)]
