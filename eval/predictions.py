"""Questions with the answers that a model gave: one JSON object a line, in Trust-Data's shape with an `output`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grpo.data.example import Example, Style, read_example, read_records, with_unique_id
from grpo.errors import UserError

STYLES: tuple[Style, ...] = ("prose", "list", "claims")
"""What can be scored: a closed-book question has no passages that could be cited."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """`Prediction(example, "Ali Daei scored 109 goals [1].")`; an output may be empty, and is then worth nothing."""

    example: Example
    output: str


def read_predictions(path: str | Path, *, style: Style) -> list[Prediction]:
    """The predictions of a .jsonl or .json file; a record that cannot be scored is an UserError with file and line."""
    if style not in STYLES:
        raise UserError(f"style {style!r} cannot be scored; valid: {', '.join(STYLES)}")
    found: list[Prediction] = []
    seen: dict[str, str] = {}
    for number, (place, record) in enumerate(read_records(path), 1):
        where = f"{place}: record {number}"
        output = record.get("output")
        if not isinstance(output, str):
            state = "is missing" if "output" not in record else f"is {type(output).__name__}"
            raise UserError(f"{where}: output {state}; expected a string (it may be empty)")
        example = read_example(where, record, style=style, source="question", blank_answers=True)
        if example.style != style:
            raise UserError(f"{where}: style is {example.style!r}; expected {style!r} in every record")
        if record.get("id") is None:  # made from question and answers: the same in every file
            example = with_unique_id(example, seen)
        elif example.id in seen:
            raise UserError(f"{where}: id {example.id!r} is taken by {seen[example.id]}; expected another")
        seen[example.id] = place
        found.append(Prediction(example, output))
    return found


def prediction_line(prediction: Prediction) -> str:
    """One line of a predictions file, line end included."""
    example = prediction.example
    docs = [
        {"title": passage.title, "text": passage.text, "answers_found": [int(flag) for flag in found]}
        for passage, found in zip(example.passages, example.found, strict=True)
    ]
    record = {
        "id": example.id,
        "question": example.question,
        "answers": [list(aliases) for aliases in example.answers],
        "docs": docs,
        "style": example.style,
        "source": example.source,
        "output": prediction.output,
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """A new file; one that is there already is refused."""
    try:
        with path.open("x", encoding="utf-8") as out:
            out.writelines(prediction_line(prediction) for prediction in predictions)
    except FileExistsError:
        raise UserError(f"{path} is there already; give another name, or move it away") from None
