"""Examples of a source by its name: "world", a local file, or `hub:NAME`.

A new format is a new module (see `curriculum.datasets`) and its name in `FORMATS`.
"""

from curriculum import builder
from curriculum.datasets import DataSpec, Format, closed_book, grounded, world
from grpo.data.example import Example
from grpo.data.files import read_records
from grpo.errors import UserError

FORMATS: tuple[Format, ...] = (grounded, builder, closed_book)
"""The first that matches a source's first record reads the source."""


def load_source(source: str, spec: DataSpec) -> tuple[list[Example], str]:
    """All examples of one source, and one line about what was dropped ("" for nothing to say)."""
    return (world.load(spec), "") if source == "world" else detect_format(source).load(source, spec)


def detect_format(source: str) -> Format:
    """The format of a file or hub data set, by the fields of its first record."""
    location, record = next(read_records(source))
    for known in FORMATS:
        if known.matches(record):
            return known
    raise UserError(
        f"{location}: unknown format (the record has {', '.join(map(str, record)) or 'no fields'}); expected docs "
        "(grounded), ctxs, context, paragraphs or passages (question-answer pairs), or the fields of a closed-book set"
    )
