"""How does an example become a line of a file? The shape of Trust-Data, which `grpo.data.example.load_examples`
reads back."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from grpo.data.example import Example
from grpo.errors import UserError


def to_record(example: Example) -> dict[str, object]:
    """question, answers, docs (title, text, answers_found), id, style and source."""
    docs = [
        {"title": passage.title, "text": passage.text, "answers_found": [int(flag) for flag in row]}
        for passage, row in zip(example.passages, example.found, strict=True)
    ]
    return {
        "id": example.id,
        "question": example.question,
        "answers": [list(spellings) for spellings in example.answers],
        "docs": docs,
        "style": example.style,
        "source": example.source,
    }


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """A line for each row; the file appears whole or not at all, and is never written over another."""
    check_free(path)
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        beside.rename(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give a file in a folder that is there") from error


def check_free(path: Path) -> None:
    """UserError unless a new .jsonl file can be written here."""
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: expected a name that ends in .jsonl")
    if path.exists():
        raise UserError(f"{path} is there already and is not overwritten; give another name")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; give a file in one that is there")
