"""Grounded examples as Trust-Data has them, and as `curriculum.build` writes them (`grpo.data.example`)."""

from curriculum.datasets import DataSpec
from grpo.data.example import Example, load_examples
from grpo.data.files import Record


def matches(record: Record) -> bool:
    return record.get("docs") is not None or record.get("style") == "closed"


def load(source: str, spec: DataSpec) -> tuple[list[Example], str]:
    return load_examples(source), ""
