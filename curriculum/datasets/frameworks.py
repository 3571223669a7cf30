"""What RAG frameworks write: RAGAS, LangChain, LangSmith and LlamaIndex.

A reference answer is preferred to the answer that the system gave, which is then kept in `extra`.
"""

from collections.abc import Iterator, Mapping
from typing import cast

from curriculum.datasets import Reader, Row
from curriculum.datasets.fields import first_field
from curriculum.datasets.grounded import GIVEN, GOLD, QUESTIONS, log_reader, read_log
from grpo.data.files import Record, wrong_field

DOCUMENTS = ("documents", "context", "source_documents", "docs", "contexts", "retrieved_documents")


def read_langsmith(location: str, record: Record) -> Iterator[Row]:
    """A run: `inputs` with the question, `outputs` with answer and documents, `reference_outputs` with the answer."""
    inputs, outputs = _object(location, record, "inputs"), _object(location, record, "outputs")
    reference = _object(location, record, "reference_outputs") if record.get("reference_outputs") else {}
    sides = {"reference_outputs": reference, "outputs": outputs}
    documents = first_field(outputs, DOCUMENTS)
    if documents is None:
        valid = f"documents under one of {', '.join(DOCUMENTS)}"
        raise wrong_field(f"{location}: outputs", "documents", None, valid, outputs)
    answers = {side: fields[n] for side, fields in sides.items() if (n := first_field(fields, (*GOLD, *GIVEN)))}
    whole = {name: value for name, value in record.items() if name not in ("inputs", *sides)}
    whole |= {"answer": answers[side] if (side := first_field(answers, sides)) else None}
    whole |= {"passages": outputs[documents]}
    if question := first_field(inputs, QUESTIONS):
        whole["question"] = inputs[question]
    yield from read_log(location, whole, "passages", questions=("question",))


def _object(location: str, record: Record, name: str) -> Record:
    value = record.get(name)
    if not isinstance(value, Mapping):
        raise wrong_field(location, name, value, "an object", record)
    return cast(Record, value)


READERS = (
    log_reader("ragas", "retrieved_contexts"),
    log_reader("ragas_old", "contexts"),
    log_reader("langchain", "context", "context.page_content"),
    log_reader("langchain_retrievalqa", "source_documents"),
    Reader(name="langsmith", keys=("inputs", "outputs"), read=read_langsmith),
    log_reader("llamaindex", "source_nodes"),
)
