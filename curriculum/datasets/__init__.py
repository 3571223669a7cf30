"""Formats and sources of examples, one file each. `curriculum.sources` finds the one for a name.

A format is a module with two functions. `matches(record)` recognizes the first record of a source. `load(source, spec)`
returns the examples, and one line about what was dropped ("" for nothing to say).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from grpo.data.example import Example, Style
from grpo.data.files import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """How examples are made where this program makes them, from the world or from question-answer pairs."""

    seed: int = 0
    passages: int = 3  # per question
    max_words: int | None = None  # question-answer pairs: passages are truncated to this many words
    world_size: int = 1000  # questions about the world
    unrelated: float = 0.0  # share of the world's unanswerable questions whose passages do not mention the subject
    styles: Mapping[Style, float] | None = None  # weights of the world's styles


class Format(Protocol):
    """What a module of this package offers."""

    def matches(self, record: Record) -> bool: ...

    def load(self, source: str, spec: DataSpec) -> tuple[list[Example], str]: ...
