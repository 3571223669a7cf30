"""Predictions: questions with the answers of a model, one JSON object a line, in Trust-Data's format with `output`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo.data.example import STYLES, Example, Style, load_examples, read_example, to_record, with_unique_id
from grpo.data.files import read_records
from grpo.errors import UserError

QUESTIONS = "questions.jsonl"
"""The questions of a run, in its folder, so that a report needs no data source."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """`Prediction(example, "Ali Daei scored 109 goals [1].")`; an empty output scores 0."""

    example: Example
    output: str
    truncated: bool = False  # the token limit ended the output


def read_predictions(path: str | Path, *, style: Style) -> list[Prediction]:
    """The predictions of a .jsonl or .json file. UserError with file and line for a record that cannot be scored."""
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
        if record.get("id") is None:  # the id is then made of question and answers, and is the same in every file
            example = with_unique_id(example, seen)
        elif example.id in seen:
            raise UserError(f"{where}: id {example.id!r} is taken by {seen[example.id]}; expected another")
        seen[example.id] = place
        found.append(Prediction(example, output, record.get("truncated") is True))
    return found


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write a new file; an existing one is refused."""
    try:
        with path.open("x", encoding="utf-8") as file:
            for prediction in predictions:
                truncated = {"truncated": True} if prediction.truncated else {}
                record = {**to_record(prediction.example), "output": prediction.output, **truncated}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise UserError(f"{path} exists already; give another name, or move it away") from None


def write_questions(folder: Path, splits: Mapping[str, Sequence[Example]]) -> None:
    """Write `folder/questions.jsonl`, a line per question with its split: `{"held_out": [...], "train": [...]}`.

    A question of several splits has the first one.
    """
    seen = set[Example]()
    with (folder / QUESTIONS).open("w", encoding="utf-8") as file:
        for split, examples in splits.items():
            new = [example for example in dict.fromkeys(examples) if example not in seen]
            seen.update(new)
            rows = ({**to_record(example), "split": split} for example in new)
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_questions(folder: Path, *, split: str) -> dict[str, Example]:
    """The questions of one split of a run folder, by id. UserError where the file is missing or damaged."""
    path = folder / QUESTIONS
    ids = {str(record.get("id")) for _, record in read_records(path) if record.get("split") == split}
    return {example.id: example for example in load_examples(path) if example.id in ids}
