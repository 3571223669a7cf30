"""Chats whose user turn shows the documents, as in the training data of Trust-Align: `Document [1](Title: ...): ...`.

* SFT: `messages` with a user and an assistant turn, or `question`, `prompt` and `response`
* DPO: `prompt` and `chosen`

Accepted answers are not in such a record: they are joined from other sources by the question (`curriculum.sources`).
Without those the answer is what the assistant wrote, a sentence being a claim of its own.
"""

import re
from collections.abc import Iterator, Mapping
from typing import cast

from curriculum.datasets import Reader, Row
from curriculum.datasets.fields import first_field, id_of, rest_of, strings_of
from curriculum.labels import is_refusal
from grpo.data.example import DATA_TYPES, Passage
from grpo.data.files import Record, wrong_field
from grpo.errors import UserError

RESPONSES = ("response", "chosen", "output", "answer")
LIST_PROMPT = "Separate answers by commas"  # in the instruction for QAMPARI, of ALCE and Trust-Align
_DOCUMENT = re.compile(
    r"Document \[\d+\]\s*\(Title:\s*(?P<title>.*?)\):\s*(?P<text>.*?)"
    r"(?=\s*Document \[\d+\]\s*\(Title:|\s*\nAnswer:|\Z)",
    re.DOTALL,
)
_QUESTION = re.compile(r"Question:\s*(.*?)\s*(?=\n\s*Document \[|\n\n|\Z)", re.DOTALL)


def read_messages(location: str, record: Record) -> Iterator[Row]:
    turns = _turns(location, record, "messages")
    asked = [content for role, content in turns if role == "user"]
    answered = [content for role, content in turns if role == "assistant"]
    if not asked or not answered:
        raise wrong_field(location, "messages", record.get("messages"), "a turn of the user and one of the assistant")
    yield _row(location, record, asked[-1], answered[-1], "messages")


def read_prompt(location: str, record: Record) -> Iterator[Row]:
    field = first_field(record, RESPONSES)
    if field is None:
        raise wrong_field(location, "response", None, f"an answer under one of {', '.join(RESPONSES)}", record)
    prompt = "\n\n".join(content for _, content in _turns(location, record, "prompt"))
    answer = _turns(location, record, field)[-1][1]
    yield _row(location, record, prompt, answer, "prompt", field)


def _row(location: str, record: Record, prompt: str, answer: str, *used: str) -> Row:
    """The last question of the prompt, behind any demonstrations, with its documents."""
    asked = prompt[max(prompt.rfind("Question:"), 0) :]
    stated = record.get("question")
    found = _QUESTION.match(asked)
    question = stated if isinstance(stated, str) else found.group(1) if found else ""
    passages = tuple(
        Passage(title=match["title"].strip(), text=match["text"].strip())
        for match in _DOCUMENT.finditer(asked)
        if match["text"].strip()
    )
    if not question.strip() or not passages:
        raise UserError(
            f"{location}: {used[0]} shows no documents; expected 'Question: ...' and 'Document [1](Title: ...): ...' "
            "in it, or passages in a field of their own: --data.fields='{passages=\"FIELD\"}'"
        )
    refused = is_refusal(answer)
    kind = str(record.get("data_type")).lower()
    is_list = (LIST_PROMPT in prompt or kind == "qampari") and not refused
    answers = ((answer.strip(),),) if answer.strip() else ()  # of a refusal the builder asks whether it is one
    return Row(
        location=location,
        question=question.strip(),
        passages=passages,
        answers=answers,
        style="list" if is_list else None,
        unanswerable=refused,
        id=id_of(record),
        source=kind if kind in DATA_TYPES else None,
        extra=rest_of(record, "question", "data_type", *used),
    )


def _turns(location: str, record: Record, field: str) -> list[tuple[str, str]]:
    """(role, content) of a list of messages; a text is one turn."""
    value = record.get(field)
    if isinstance(value, str):
        return [("", value)]
    turns = cast(list[object], value) if isinstance(value, list) and value else [None]
    found: list[tuple[str, str]] = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise wrong_field(location, field, value, "a text, or a list of messages with role and content", record)
        place = f"{location}: {field}[{number}]"
        row = cast(Record, turn)
        found.append(("".join(strings_of(place, row, "role")), "".join(strings_of(place, row, "content"))))
    return found


MESSAGES = Reader(name="messages", keys=("messages",), read=read_messages, variants=False, joins=True)
PROMPT = Reader(name="prompt_response", keys=("prompt",), read=read_prompt, variants=False, joins=True)
