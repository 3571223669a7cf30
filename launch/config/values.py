"""What may a recipe's value be where a type alone does not say it? Each refusal says what is valid."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, PlainValidator

T = TypeVar("T", int, float)


# What `held_out.best_by` may name: the numbers of eval.label_metrics and eval.trust_score of which more is better.
MEASURED = ("trust_score", "f1_gr", "f1_ac", "f1_gc", "grounded", "right", "citation_recall", "citation_precision")
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
    if _is_share(value):
        return float(value)
    raise ValueError(
        'valid: a share, greater than or equal to 0 and less than or equal to 1, or "any" (as many as the sources have)'
    )


def in_stage(value: T | dict[str, T], stage: str) -> T:
    """What a value that may be given by stage is in this one.

    >>> in_stage({"default": 30, "stage2": 45}, "stage2"), in_stage({"default": 30}, "stage1"), in_stage(7, "stage1")
    (45, 30, 7)
    """
    return value.get(stage, value["default"]) if isinstance(value, dict) else value


def _by_stage(is_valid: Callable[[Any], bool], valid: str) -> PlainValidator:
    def checked(value: Any) -> Any:
        named = cast(dict[Any, Any], value) if isinstance(value, dict) else {"default": value}
        if "default" in named and all(map(is_valid, named.values())):
            return value
        raise ValueError(f"valid: {valid}")

    return PlainValidator(checked)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


Shots = Annotated[int | Literal["auto"], PlainValidator(_shots)]
Limit = Annotated[float | Literal["auto"], PlainValidator(_limit)]
Sources = Annotated[str | tuple[str, ...], PlainValidator(_sources)]
Unanswerable = Annotated[float | Literal["any"], PlainValidator(_unanswerable)]
Steps = Annotated[
    int | dict[str, int],
    _by_stage(
        lambda value: type(value) is int and value >= 0,
        "a whole number, 0 or more, or one for each stage: { default = 30, stage2 = 45 }",
    ),
]
StageShare = Annotated[
    float | dict[str, float],
    _by_stage(_is_share, "a share from 0 to 1, or one for each stage: { default = 0.8, stage2 = 1.0 }"),
]
